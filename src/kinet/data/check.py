"""``kinet manifest check``: what in the manifests of a data set spoils its training or its test."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, get_args

from kinet.data.duplicates import repeated, same_content
from kinet.data.groups import GroupRule, find_group_rule
from kinet.data.manifest import BETWEEN_LABELS, Manifest, read_manifest, write_table
from kinet.progress import clip_progress

Kind = Literal["same path", "same content", "same source", "missing class", "unreadable"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ACROSS: tuple[Kind, ...] = ("same path", "same content")
"""What is worse across the manifests of a split than inside one."""


@dataclass(frozen=True)
class Place:
    """A clip in a manifest, or where a class is missing."""

    manifest: Path
    path: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """Clips that are the same or of one source video, a class that a manifest lacks, or a clip that is not there."""

    kind: Kind
    key: str
    """The source video, the class or the cause; for the same clips the first one's path."""
    places: tuple[Place, ...]

    @property
    def across(self) -> bool:
        """Whether the clips lie on both sides of a split."""
        return len({place.manifest for place in self.places}) > 1


@dataclass(frozen=True)
class Report:
    """What a check of manifests found."""

    clips: int
    rule: GroupRule | None
    """How source videos were found; None where no rule was given and the clips' names fit none that is known."""
    ungrouped: int
    """Clips that the rule did not fit."""
    findings: list[Finding]

    def of(self, kind: Kind) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == kind]


class Sides:
    """The clips of several manifests, numbered through."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests = manifests
        self.ends = list(accumulate(len(manifest) for manifest in manifests))

    def __len__(self) -> int:
        return self.ends[-1]

    @property
    def names(self) -> Iterator[str]:
        return (manifest.name(index) for manifest in self.manifests for index in range(len(manifest)))

    @property
    def locations(self) -> Iterator[str]:
        """The clips' absolute paths."""
        for manifest in self.manifests:
            root = os.path.abspath(manifest.root)
            for index in range(len(manifest)):
                yield os.path.normpath(os.path.join(root, manifest.name(index)))

    def __getitem__(self, number: int) -> Place:
        side = bisect_right(self.ends, number)
        manifest = self.manifests[side]
        clip = manifest[number - (self.ends[side] - len(manifest))]
        return Place(manifest.source, clip.name, tuple(manifest.classes[label] for label in (clip.label, *clip.also)))

    def places(self, numbers: Iterable[int]) -> tuple[Place, ...]:
        return tuple(self[number] for number in numbers)

    def across(self, numbers: Iterable[int]) -> bool:
        """Whether the clips lie in more than one manifest."""
        return len({bisect_right(self.ends, number) for number in numbers}) > 1


def check_manifests(
    paths: Sequence[Path], *, root: Path | None = None, rule: GroupRule | None = None, files: bool = True
) -> Report:
    """Check one manifest, or all manifests of a split against each other.

    Args:
        root: as ``read_manifest`` takes it.
        rule: finds source videos; None takes the data set's own that all clips' names fit, if there is one.
        files: look at the clips: whether they are there, and which have the same content.

    Raises:
        InputError: a manifest that cannot be read.
    """
    manifests = [read_manifest(path, root=root, several_labels=True) for path in paths]
    sides = Sides(manifests)
    findings = list(missing_classes(manifests))
    locations = list(sides.locations)
    for same in repeated(locations):
        findings.append(Finding("same path", sides[same[0]].path, sides.places(same)))
    if files:
        findings += file_findings(sides, locations)
    rule = rule or find_group_rule(sides.names)
    groups = [rule.group(name) for name in sides.names] if rule else []
    for same in repeated(groups):
        if sides.across(same):
            findings.append(Finding("same source", str(groups[same[0]]), sides.places(same)))
    findings.sort(key=lambda finding: KINDS.index(finding.kind))
    return Report(len(sides), rule, groups.count(None), findings)


def missing_classes(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Each class that some of the manifests lack, with the manifests that do."""
    for name in sorted(set().union(*(manifest.classes for manifest in manifests))):
        lacking = tuple(Place(manifest.source, "", (name,)) for manifest in manifests if name not in manifest.classes)
        if lacking:
            yield Finding("missing class", name, lacking)


def file_findings(sides: Sides, locations: Sequence[str]) -> Iterator[Finding]:
    """Clips of the same content at different paths, and clips that cannot be read."""
    first: dict[str, int] = {}
    for number, location in enumerate(locations):
        first.setdefault(location, number)
    numbers = list(first.values())
    with clip_progress("check", len(numbers)) as advance:
        alike, unreadable = same_content([locations[number] for number in numbers], lambda clips: advance(clips, ""))
    for same in alike:
        places = sides.places(sorted(numbers[place] for place in same))
        yield Finding("same content", places[0].path, places)
    for place, cause in sorted(unreadable.items()):
        yield Finding("unreadable", cause, sides.places([numbers[place]]))


def summary(report: Report) -> list[str]:
    """A line for each kind of finding: how many, how many of them across manifests, and the first."""
    lines = []
    for kind in KINDS:
        found = report.of(kind)
        if found:
            across = sum(finding.across for finding in found)
            shown = "; ".join(f"{place.manifest} {place.path}".strip() for place in found[0].places[:3])
            count = f"{len(found)}, {across} in several manifests" if kind in ACROSS else f"{len(found)}"
            lines.append(f"{kind}: {count}; the first: {found[0].key} ({shown})")
    if report.rule is None:
        lines.append("source videos were not compared: the clips' names tell none; give --group")
    return lines or ["no findings"]


def write_report(path: Path, report: Report) -> None:
    """A csv with a line for each clip of each finding, or for each manifest that lacks a class."""
    write_table(
        path,
        ("finding", "kind", "key", "manifest", "path", "label"),
        (
            (number, finding.kind, finding.key, place.manifest, place.path, BETWEEN_LABELS.join(place.labels))
            for number, finding in enumerate(report.findings, 1)
            for place in finding.places
        ),
    )
