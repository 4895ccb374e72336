"""``kinet scan``: every clip of a manifest decoded in processes that may be lost, and a report of what is wrong."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from kinet.data.clip_check import BAD, SUSPECT, Facts, Problem, check_clip
from kinet.data.guarded import Failure, guarded_map
from kinet.data.manifest import Clip, Manifest, read_manifest, write_manifest
from kinet.errors import InputError
from kinet.progress import clip_progress


@dataclass(frozen=True)
class ScanOptions:
    """What to scan, and how.

    ``timeout``: seconds that a clip may take. ``memory``: MB that its decoding may take. ``segments``: a clip with
    fewer frames is short. ``good``: where to write a manifest of the clips that are not bad; ``strict``: of those
    without any problem.
    """

    manifest: Path
    out: Path
    root: Path | None = None
    workers: int = 1
    timeout: float = 120.0
    memory: int = 2048
    segments: int = 3
    good: Path | None = None
    strict: bool = False


def check_item(item: tuple[Clip, int]) -> Facts:
    """What is wrong with the clip of (clip, segments)."""
    clip, segments = item
    return check_clip(clip.path, segments)


CheckClip = Callable[[tuple[Clip, int]], Facts]


def scan(options: ScanOptions, check: CheckClip = check_item) -> dict[str, Any]:
    """Check every clip; returns the summary, and writes into ``out``:

    - ``report.csv``, columns path, label, verdict (bad, suspect), problem, cause: a row for every problem;
    - ``clips.jsonl``: what is known of every clip, a JSON object a line;
    - ``summary.json``: how many clips are good, suspect and bad, and how many have each problem.

    A scan that was interrupted goes on: clips that ``clips.jsonl`` tells of are not checked again, unless their
    file has changed since, or they failed under another limit of time or memory.

    ``check`` must be importable: it is called in other processes.
    Raises InputError on a wrong option or manifest, or where the folder cannot be written.
    """
    for name in ("workers", "timeout", "memory", "segments"):
        if not 0 < getattr(options, name) < math.inf:
            raise InputError(f"--{name} {getattr(options, name)}: give a number above 0")
    manifest = read_manifest(options.manifest, root=options.root)
    options.out.mkdir(parents=True, exist_ok=True)
    with Journal(options.out / "clips.jsonl", options) as journal:
        waiting = _unchecked(manifest, journal)
        bad = 0
        with clip_progress("scan", len(manifest), len(manifest) - len(waiting)) as advance:
            for clip, facts in _check(manifest, waiting, options, check):
                journal.add(clip, facts)
                bad += any(problem.kind in BAD for problem in facts.problems)
                advance(1, f"{bad} bad")
        findings = find_problems(manifest, journal, options.segments)
        summary = _summary(manifest, journal, findings)
        journal.sort(manifest)
    _write_report(options.out / "report.csv", manifest, findings)
    summary["report"] = str(options.out / "report.csv")
    if options.good is not None:
        summary["manifest"] = str(options.good)
        _write_good(options.good, manifest, findings, options.strict)
    temporary = options.out / "summary.json.tmp"
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    temporary.replace(options.out / "summary.json")
    return summary


def _check(manifest: Manifest, rows: list[int], options: ScanOptions, check: CheckClip) -> Iterator[tuple[Clip, Facts]]:
    items = ((manifest[row], options.segments) for row in rows)
    for (clip, _), outcome in guarded_map(
        check, items, workers=options.workers, timeout=options.timeout, memory=options.memory * 2**20
    ):
        if isinstance(outcome, Failure):
            outcome = Facts(problems=[Problem(outcome.kind, outcome.cause)])
        yield clip, outcome


LOST = frozenset({"timeout", "memory", "crash", "error"})
"""Problems that another limit, of time or memory, may do away with."""
LINE_KEYS = frozenset({"path", "stamp", "limits", *(field.name for field in fields(Facts))})


class Journal:
    """What was found out so far, clip by clip, in a file that an interruption cannot spoil: a line for each.

    Held as text: 650,000 clips take some 300 MB.
    """

    def __init__(self, path: Path, options: ScanOptions) -> None:
        self.path = path
        self.limits = [options.timeout, options.memory]
        self._lines: dict[str, str] = {}
        content = path.read_bytes() if path.exists() else b""
        content = content[: content.rfind(b"\n") + 1]  # the last line may be cut off
        try:
            for line in content.decode().splitlines():
                values = json.loads(line)
                if not values.keys() >= LINE_KEYS:
                    raise ValueError("not a line of this version's")
                self._lines[values["path"]] = line
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path}: not written by a scan of this version; choose another --out") from error
        self._file = path.open("ab")
        self._file.truncate(len(content))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, clip: Clip, facts: Facts) -> None:
        line = json.dumps({"path": clip.name, "stamp": _stamp(clip.path), "limits": self.limits, **asdict(facts)})
        self._lines[clip.name] = line
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def facts(self, clip: Clip) -> Facts:
        values = json.loads(self._lines[clip.name])
        known = {field.name: values[field.name] for field in fields(Facts)}
        return Facts(**{**known, "problems": [Problem(*problem) for problem in values["problems"]]})

    def is_current(self, clip: Clip) -> bool:
        """The clip was checked, and a check now would find the same."""
        if clip.name not in self._lines:
            return False
        values = json.loads(self._lines[clip.name])
        limited = any(kind in LOST for kind, _ in values["problems"])
        return values["stamp"] == _stamp(clip.path) and (values["limits"] == self.limits or not limited)

    def sort(self, manifest: Manifest) -> None:
        """Bring the file into the manifest's order, without lines that a later one replaced."""
        self._file.close()
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            for name in dict.fromkeys(clip.name for clip in manifest):
                file.write(self._lines[name] + "\n")
        temporary.replace(self.path)


def _stamp(path: Path) -> str:
    """Changes when a clip does: sizes and times of its file or images. Empty for a clip that is not there."""
    try:
        states = [entry.stat() for entry in os.scandir(path)] if path.is_dir() else [path.stat()]
    except OSError:
        return ""
    newest = max((state.st_mtime_ns for state in states), default=0)
    return f"{len(states)}:{sum(state.st_size for state in states)}:{newest}"


def _unchecked(manifest: Manifest, journal: Journal) -> list[int]:
    """The rows to check, each clip once."""
    rows: dict[str, int] = {}
    for row, clip in enumerate(manifest):
        if not journal.is_current(clip):
            rows.setdefault(clip.name, row)
    return list(rows.values())


def find_problems(manifest: Manifest, journal: Journal, segments: int) -> dict[int, list[Problem]]:
    """The problems of every row that has some: those of its check, too few frames, and content seen before."""
    findings: dict[int, list[Problem]] = {}
    first: dict[str, int] = {}
    for row, clip in enumerate(manifest):
        facts = journal.facts(clip)
        problems = list(facts.problems)
        if 0 < facts.frames < segments:
            problems.append(Problem("short", f"{facts.frames} frames, fewer than {segments} segments"))
        if facts.content and not is_bad(problems):
            other = first.setdefault(facts.content, row)
            if other != row:
                problems.append(Problem("duplicate", _same(clip, manifest[other], manifest.classes)))
        if problems:
            findings[row] = problems
    return findings


def is_bad(problems: Iterable[Problem]) -> bool:
    return any(problem.kind in BAD for problem in problems)


def _same(clip: Clip, other: Clip, classes: Sequence[str]) -> str:
    text = "listed before" if clip.name == other.name else f"the same content as {other.name}"
    return text if clip.label == other.label else f"{text}, there with the label {classes[other.label]}"


def _write_report(path: Path, manifest: Manifest, findings: dict[int, list[Problem]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "verdict", "problem", "cause"))
        for row, problems in findings.items():
            clip = manifest[row]
            for kind, cause in problems:
                verdict = "bad" if kind in BAD else "suspect"
                writer.writerow((clip.name, manifest.classes[clip.label], verdict, kind, cause))


def _write_good(path: Path, manifest: Manifest, findings: dict[int, list[Problem]], strict: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    out = {row for row, problems in findings.items() if strict or is_bad(problems)}
    write_manifest(
        path, ((clip.name, manifest.classes[clip.label]) for row, clip in enumerate(manifest) if row not in out)
    )


def _summary(manifest: Manifest, journal: Journal, findings: dict[int, list[Problem]]) -> dict[str, Any]:
    bad = sum(is_bad(problems) for problems in findings.values())
    kinds = Counter(kind for problems in findings.values() for kind in {problem.kind for problem in problems})
    return {
        "clips": len(manifest),
        "good": len(manifest) - len(findings),
        "suspect": len(findings) - bad,
        "bad": bad,
        "problems": {kind: kinds[kind] for kind in (*BAD, *SUSPECT) if kinds[kind]},
        "frames": sum(journal.facts(clip).frames for clip in manifest),
    }


def problem_table(summary: dict[str, Any]) -> Table:
    """Kinds of problem and how many clips have each."""
    table = Table("problem", "verdict", "clips")
    for kind, count in summary["problems"].items():
        table.add_row(kind, "bad" if kind in BAD else "suspect", str(count))
    return table
