"""What a study's trainings amount to: means, spreads, paired gains over the baseline; as Markdown, JSON, picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy import stats

from kinet.ablation.rows import BASELINE, Row

CONFIDENCE = 0.95


@dataclass(frozen=True)
class RowResult:
    """A row and what its trainings gave, as their JSON files say."""

    row: Row
    runs: Sequence[dict[str, Any]]

    @property
    def top1(self) -> dict[int, float]:
        """Per cent by seed, of the trainings that did not fail."""
        return {run["seed"]: run["top1"] for run in self.runs if "failed" not in run}


@dataclass(frozen=True)
class Gain:
    """Per cent points over the baseline, paired by seed."""

    mean: float
    low: float | None
    """The ends of the 95% interval (Student's t); None with fewer than two pairs."""
    high: float | None
    pairs: int


@dataclass(frozen=True)
class Compared:
    """A row beside the baseline."""

    result: RowResult
    gain: Gain | None
    """None for the baseline, and without a seed that both have."""


def compare(results: Sequence[RowResult]) -> list[Compared]:
    """Pair each row's trainings with the baseline's of the same seed."""
    baseline = next((result.top1 for result in results if result.row.key == BASELINE), {})
    return [
        Compared(result, None if result.row.key == BASELINE else paired_gain(result.top1, baseline))
        for result in results
    ]


def paired_gain(row: dict[int, float], baseline: dict[int, float]) -> Gain | None:
    """The mean of the differences over the common seeds, and its interval."""
    differences = [row[seed] - baseline[seed] for seed in sorted(row.keys() & baseline.keys())]
    if not differences:
        return None
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return Gain(mean, None, None, 1)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
    return Gain(mean, mean - reach, mean + reach, len(differences))


def to_json(compared: Sequence[Compared], split: str, views: str) -> dict[str, Any]:
    """Every row's figures by its key, in per cent and per cent points."""
    rows = {}
    for entry in compared:
        result, gain = entry.result, entry.gain
        values = list(result.top1.values())
        rows[result.row.key] = {
            "tables": list(result.row.tables),
            "settings": result.row.settings,
            "changes": dict(result.row.changes),
            "seeds": sorted(result.top1),
            "failed": sum("failed" in run for run in result.runs),
            "top1": list(result.top1.values()),
            "top1_mean": statistics.mean(values) if values else None,
            "top1_std": statistics.stdev(values) if len(values) > 1 else None,
            "gain": gain and gain.mean,
            "gain_low": gain and gain.low,
            "gain_high": gain and gain.high,
            "edge_entropy": edge_entropy(result),
            "parameters": next((run["parameters"] for run in result.runs if "parameters" in run), None),
            "gmacs_per_clip": next((run["gmacs_per_clip"] for run in result.runs if "gmacs_per_clip" in run), None),
        }
    return {"split": split, "views": views, "confidence": CONFIDENCE, "rows": rows}


def edge_entropy(result: RowResult) -> float | None:
    """Of the graph at the last epoch, as a share of the most there can be: 1 attends to all nodes alike, 0 to one."""
    found = [run["last_epoch"]["edge_entropy"] for run in result.runs if "edge_entropy" in run.get("last_epoch", {})]
    return statistics.mean(found) if found else None


def to_markdown(compared: Sequence[Compared], tables: Sequence[int], split: str, views: str) -> str:
    """The tables as the paper numbers them."""
    text = [
        f"Top-1 in per cent on the clips of `data.{split}`, views {views}: mean ± standard deviation over the seeds."
        " The gain over the baseline is paired by seed, with its 95% interval (Student's t). Parameters are those at"
        " inference. The paper's figures are of ResNet-50 on Kinetics-400.\n"
    ]
    for table in sorted(tables):
        text.append(f"\n## Table {table}\n")
        text.append("| method | settings | top-1 | gain | parameters | seeds | paper |")
        text.append("|---|---|---|---|---|---|---|")
        text += [markdown_row(entry) for entry in compared if table in entry.result.row.tables]
    return "\n".join(text) + "\n"


def markdown_row(entry: Compared) -> str:
    row, values = entry.result.row, list(entry.result.top1.values())
    failed = len(entry.result.runs) - len(values)
    top1 = f"{statistics.mean(values):.1f}" if values else "-"
    if len(values) > 1:
        top1 += f" ± {statistics.stdev(values):.1f}"
    gain = "-"
    if entry.gain is not None:
        gain = f"{entry.gain.mean:+.1f}"
        if entry.gain.low is not None and entry.gain.high is not None:
            gain += f" [{entry.gain.low:+.1f}, {entry.gain.high:+.1f}]"
    parameters = next((f"{run['parameters'] / 1e6:.1f}M" for run in entry.result.runs if "parameters" in run), "-")
    seeds = f"{len(values)}" + (f" ({failed} failed)" if failed else "")
    paper = "-" if row.paper is None else f"{row.paper:.1f}"
    return f"| {row.method} | {row.settings} | {top1} | {gain} | {parameters} | {seeds} | {paper} |"


def plot(compared: Sequence[Compared], path: Path) -> None:
    """The gains with their intervals, and each seed's difference as a dot."""
    shown = [entry for entry in compared if entry.gain is not None]
    if not shown:
        return
    baseline = next(entry.result.top1 for entry in compared if entry.result.row.key == BASELINE)
    figure = Figure(figsize=(7, 1 + 0.4 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, entry in enumerate(shown):
        gain, top1 = entry.gain, entry.result.top1
        assert gain is not None
        if gain.low is not None and gain.high is not None:
            axes.plot([gain.low, gain.high], [place, place], color="#3d7dd8", linewidth=3, alpha=0.5)
        differences = [top1[seed] - baseline[seed] for seed in top1.keys() & baseline.keys()]
        axes.scatter(differences, [place] * len(differences), color="#3d7dd8", s=10, alpha=0.6)
        axes.scatter([gain.mean], [place], color="#e4572e", s=30, zorder=3)
    labels = [f"{entry.result.row.method}: {entry.result.row.settings}" for entry in shown]
    axes.set_yticks(range(len(shown)), labels, parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("top-1 over the baseline, per cent points")
    axes.grid(axis="x", alpha=0.2)
    figure.savefig(path, dpi=120)
