"""A progress line on stderr: clips done, clips a second, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[int, str], None]
"""Called with the clips that were done and a text to show."""


class Rate(ProgressColumn):
    """Clips, or other ``unit``, a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self.unit}/s", style="progress.data.speed")


@contextmanager
def clip_progress(what: str, total: int, done: int = 0, unit: str = "clips") -> Iterator[Advance]:
    """Show progress over ``total`` clips, of which ``done`` were done before; nothing where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        Rate(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        task = progress.add_task(what, total=total, completed=done, note="")

        def advance(clips: int, note: str = "") -> None:
            progress.update(task, advance=clips, note=note)

        yield advance
