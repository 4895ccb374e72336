"""The report of a comparison: one HTML file that needs nothing beside it, readable on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinet.errors import InputError
from kinet.explain.figures import confusion_figure, curves, data_uri, frame_strip, svg

PER_CENT = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class": "mean class accuracy",
    "scene_top1": "scene top-1",
    "mask_iou": "mask IoU",
}
"""Keys of metrics in per cent, where more is better, and what the report calls them."""


@dataclass(frozen=True, slots=True, eq=False)
class ReportRun:
    """One trained network and its test."""

    name: str
    metrics: Mapping[str, float]
    """As ``Metrics.summary``: top1, top5, mean_class in per cent, videos; further keys become rows too."""
    parameters: int
    """Of the inference network."""
    seconds: float
    """Of training."""
    history: Sequence[Mapping[str, float]] = ()
    """The rows of metrics.jsonl; see ``figures.curves``."""
    confusion: NDArray[np.integer] | None = None
    """(C, C) clips, rows the true class."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A class and the probability 0..1 given to it."""

    name: str
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class ReportSample:
    """One test clip and what the networks saw in it."""

    name: str
    frames: NDArray[np.uint8]
    """(N, 3, H, W) or (N, H, W, 3) RGB"""
    truth: str
    """The true action."""
    predictions: Mapping[str, Guess]
    """The best action of each run, by the run's name."""
    masks: NDArray[np.floating] | None = None
    """(N, h, w) probability 0..1 of a person, over the whole frame"""
    scenes: Sequence[Guess] = ()
    """The most probable scenes, best first."""
    scene_truth: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What the page says, from top to bottom."""

    title: str
    introduction: str
    runs: Sequence[ReportRun]
    """The one to compare with first."""
    classes: Sequence[str]
    samples: Sequence[ReportSample] = ()
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()
    """Shell commands that repeat or continue the work."""
    versions: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, report: Report) -> None:
    """Write the page. All text is escaped; no script, no address outside of the page.

    Raises InputError where the file cannot be written.
    """
    page = render_report(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def render_report(report: Report) -> str:
    """The page as text."""
    sections = [
        _results(report.runs),
        _figures(report),
        _samples(report.samples),
        _list("Notes", "ul", [escape(note) for note in report.notes]),
        _list("Commands", "ul", [f"<code>{escape(command)}</code>" for command in report.commands]),
        _versions(report.versions),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(report.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{escape(report.title)}</h1><p>{escape(report.introduction)}</p></header>",
            "<main>",
            *(section for section in sections if section),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _results(runs: Sequence[ReportRun]) -> str:
    """A table: one column a run, one row a measure; with two runs, their difference."""
    keys = list(dict.fromkeys(key for run in runs for key in run.metrics))
    rows = [_metric_row(key, [run.metrics.get(key) for run in runs]) for key in keys]
    rows.append(_row("parameters", [f"{run.parameters / 1e6:.2f} M" for run in runs], len(runs) == 2))
    rows.append(_row("training", [_duration(run.seconds) for run in runs], len(runs) == 2))
    names = "".join(f'<th scope="col">{escape(run.name)}</th>' for run in runs)
    difference = '<th scope="col">difference</th>' if len(runs) == 2 else ""
    return (
        "<section><h2>Results</h2>"
        f'<div class="wide"><table><thead><tr><th></th>{names}{difference}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _metric_row(key: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if key not in PER_CENT:
        cells = ["–" if value is None else f"{value:,.6g}" for value in values]
        return _row(key.replace("_", " "), cells, len(values) == 2)
    cells = []
    for value in values:
        text = "–" if value is None else f"{value:.1f}%"
        cells.append(f"<strong>{text}</strong>" if len(known) > 1 and value == max(known) else text)
    difference = f"{known[1] - known[0]:+.1f}".replace("-", "−") if len(known) == len(values) == 2 else ""
    return _row(PER_CENT[key], cells, len(values) == 2, difference)


def _row(name: str, cells: Sequence[str], two: bool, difference: str = "") -> str:
    """``cells`` and ``difference`` are HTML, ``name`` is text."""
    columns = [*cells, difference] if two else cells
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in columns)}</tr>'


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _figures(report: Report) -> str:
    figures = []
    histories = {run.name: run.history for run in report.runs if run.history}
    if histories:
        figures.append(_figure(svg(curves(histories)), "Learning curves"))
    for run in report.runs:
        if run.confusion is not None:
            matrix = svg(confusion_figure(run.confusion, report.classes))
            figures.append(_figure(matrix, f"Confusion of {run.name}: test clips by true and recognised action"))
    return f'<section><h2>Figures</h2><div class="grid">{"".join(figures)}</div></section>' if figures else ""


def _figure(drawing: str, caption: str) -> str:
    named = drawing.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
    return f"<figure>{named}<figcaption>{escape(caption)}</figcaption></figure>"


def _samples(samples: Sequence[ReportSample]) -> str:
    if not samples:
        return ""
    masked = any(sample.masks is not None for sample in samples)
    legend = "<p>Tinted and outlined: where the network saw people.</p>" if masked else ""
    cards = "".join(_sample(sample) for sample in samples)
    return f'<section><h2>Test clips</h2>{legend}<div class="grid broad">{cards}</div></section>'


def _sample(sample: ReportSample) -> str:
    strip = frame_strip(sample.frames, sample.masks)
    rows = [("true action", f"<strong>{escape(sample.truth)}</strong>")]
    for run, guess in sample.predictions.items():
        right = guess.name == sample.truth
        mark = '<span class="right">✓ right</span>' if right else '<span class="wrong">✗ wrong</span>'
        rows.append((run, f"{_guess(guess)} {mark}"))
    if sample.scenes:
        rows.append(("scene seen", ", ".join(_guess(guess) for guess in sample.scenes)))
    if sample.scene_truth is not None:
        rows.append(("true scene", escape(sample.scene_truth)))
    facts = "".join(f"<dt>{escape(term)}</dt><dd>{text}</dd>" for term, text in rows)
    alt = f"{len(sample.frames)} frames of {sample.name}"
    return (
        f'<article><img src="{data_uri(strip)}" width="{strip.width}" height="{strip.height}" alt="{escape(alt)}">'
        f"<h3>{escape(sample.name)}</h3><dl>{facts}</dl></article>"
    )


def _guess(guess: Guess) -> str:
    return f"{escape(guess.name)} <small>{guess.probability:.0%}</small>"


def _list(title: str, tag: str, items: Sequence[str]) -> str:
    """``items`` are HTML."""
    if not items:
        return ""
    return f"<section><h2>{title}</h2><{tag}>{''.join(f'<li>{item}</li>' for item in items)}</{tag}></section>"


def _versions(versions: Mapping[str, str]) -> str:
    if not versions:
        return ""
    text = ", ".join(f"{escape(name)} {escape(version)}" for name, version in versions.items())
    return f"<section><h2>Made with</h2><p>{text}</p></section>"


STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --card: #f3f3ee; --ink: #22252a; --faint: #666b74;
  --line: #d9d9d2; --right: #177245; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1f2226; --ink: #e6e6e3; --faint: #a0a4ab;
  --line: #383c42; --right: #6fcf97; --wrong: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.2rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.6rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; }
h3 { font-size: 0.85rem; font-weight: 400; color: var(--faint); margin: 0.5rem 0; }
header p { max-width: 45rem; margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 0.35rem 0.9rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; font-weight: 400; color: var(--faint); }
th:first-child { white-space: normal; }
@media (max-width: 32rem) { th, td { padding: 0.35rem 0.4rem; font-size: 0.9rem; } }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 1rem; }
.broad { grid-template-columns: repeat(auto-fill, minmax(min(29rem, 100%), 1fr)); }
figure, article { margin: 0; background: var(--card); border-radius: 0.6rem; padding: 0.8rem; }
figure svg, article img { display: block; width: 100%; height: auto; }
article img { border-radius: 0.3rem; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption, small { color: var(--faint); font-size: 0.85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 0.9rem; margin: 0; font-size: 0.95rem; }
dt { color: var(--faint); }
dd { margin: 0; }
.right { color: var(--right); white-space: nowrap; }
.wrong { color: var(--wrong); white-space: nowrap; }
ul { padding-left: 1.2rem; }
code { font: 0.9rem ui-monospace, monospace; background: var(--card); padding: 0.1rem 0.35rem; border-radius: 0.3rem; }
"""
