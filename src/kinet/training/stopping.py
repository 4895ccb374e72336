"""How a training ends before its time."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from kinet.errors import InputError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class StopRequest:
    """Inside it, SIGTERM only sets ``asked``: the training stops where it can save.

    Outside the main thread, where Python allows no signal handlers, it is never asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self.before: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self.ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def outlive_sigterm(worker: int) -> None:
    """Start a loading process (a DataLoader's ``worker_init_fn``) so that a SIGTERM leaves it to its training.

    Batch systems send the signal to all processes of a job, and a training without its loaders could not end its step.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def full_disk_in_one_line(out: str) -> Iterator[None]:
    """Turn a full disk into an InputError, whichever file met it first. TensorBoard's files have a thread of theirs."""
    hook = threading.excepthook

    def tell_thread_error(error: threading.ExceptHookArgs) -> None:
        if not is_full_disk(error.exc_value):  # else the training's next line of TensorBoard raises it again
            hook(error)

    threading.excepthook = tell_thread_error
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise InputError(
            f"{out}: no space is left on the disk; the checkpoints written before are whole: make space, then go on"
            " with --resume auto"
        ) from error
    finally:
        threading.excepthook = hook


def is_full_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL
