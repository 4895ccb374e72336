"""Which clips were cut from one source video, and parting clips so that those stay on one side."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from kinet.data.manifest import BETWEEN_LABELS
from kinet.errors import InputError

Row = tuple[str, str]
"""A clip's path and its label."""

HMDB51_CLASSES = (
    "brush_hair|cartwheel|catch|chew|clap|climb|climb_stairs|dive|draw_sword|dribble|drink|eat|fall_floor|fencing|"
    "flic_flac|golf|handstand|hit|hug|jump|kick|kick_ball|kiss|laugh|pick|pour|pullup|punch|push|pushup|ride_bike|"
    "ride_horse|run|shake_hands|shoot_ball|shoot_bow|shoot_gun|sit|situp|smile|smoke|somersault|stand|"
    "swing_baseball|sword|sword_exercise|talk|throw|turn|walk|wave"
)
"""As alternatives in a regular expression."""


@dataclass(frozen=True)
class GroupRule:
    """Finds a clip's source video in its path."""

    name: str
    pattern: re.Pattern[str]
    """Its first group, or all of it without groups, names the source video."""

    def group(self, path: str) -> str | None:
        """None where the pattern is not in the path."""
        found = self.pattern.search(path)
        return None if found is None else found[1 if self.pattern.groups else 0]


GROUP_RULES = (
    # v_Archery_g02_c05.avi: a class's clips of one gNN are of one person and place
    GroupRule("ucf101", re.compile(r"(?:^|/)v_([^/]+_g\d+)_c\d+[^/]*$")),
    # April_09_brush_hair_u_nm_np1_ba_goo_0.avi: source, class, visible parts, camera, people, view, quality, number
    GroupRule(
        "hmdb51",
        re.compile(
            rf"(?:^|/)([^/]+?)_(?:{HMDB51_CLASSES})_[a-z]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+[^/]*$"
        ),
    ),
    # 0wR5jVB-WPk_000417_000427.mp4: the id on YouTube, first and last second
    GroupRule("kinetics", re.compile(r"(?:^|/)([\w-]{11})_\d{6}_\d{6}[^/]*$")),
)


def group_rule(text: str) -> GroupRule:
    """A rule by its name (ucf101, hmdb51, kinetics), or one of the regular expression ``text``; raises InputError."""
    named = next((rule for rule in GROUP_RULES if rule.name == text), None)
    if named is not None:
        return named
    try:
        return GroupRule(text, re.compile(text))
    except re.error as error:
        names = ", ".join(rule.name for rule in GROUP_RULES)
        raise InputError(f"--group {text}: not a regular expression ({error}), nor one of {names}") from error


def find_group_rule(paths: Iterable[str]) -> GroupRule | None:
    """The data set's rule that all paths fit; None where there is none."""
    rules = list(GROUP_RULES)
    for path in paths:
        rules = [rule for rule in rules if rule.group(path) is not None]
        if not rules:
            return None
    return rules[0]


def hold_out(
    rows: Sequence[Row], share: float, *, rule: GroupRule | None = None, several_labels: bool = False
) -> tuple[list[Row], list[Row]]:
    """Part rows into those to train on and, of every class, about a ``share`` to validate on.

    The same rows give the same parts. At least one clip of a class stays to train on. Without a rule, clips cut from
    one source video may come to lie on both sides. With it they stay together, so that the share is met as nearly as
    whole groups allow; a class whose clips are all of one group is not held out, and a clip that the rule does not
    fit is a group of its own.
    ``several_labels``: a row's label is the clip's labels with ``|`` between them, and it counts for each.

    Raises InputError where ``share`` is not between 0 and 1, the rule fits no clip, or nothing would be held out.
    """
    if not 0 < share < 1:
        raise InputError(f"--hold-out {share}: give a share between 0 and 1, for example 0.2")
    held = _hold_out_groups(rows, share, rule, several_labels) if rule or several_labels else _hold_out(rows, share)
    if not held:
        raise InputError(f"--hold-out {share}: too few clips a class to hold one out; give a larger share")
    return [row for row in rows if row not in held], [row for row in rows if row in held]


def _hold_out(rows: Sequence[Row], share: float) -> set[Row]:
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row[1], []).append(row)
    rng = random.Random(0)
    held: set[Row] = set()
    for label in sorted(by_class):
        count = min(round(share * len(by_class[label])), len(by_class[label]) - 1)
        held.update(rng.sample(by_class[label], count))
    return held


def _hold_out_groups(rows: Sequence[Row], share: float, rule: GroupRule | None, several_labels: bool) -> set[Row]:
    """Take groups in random order where that brings the classes nearer to their shares; then, for classes that got
    none, the smallest that can be spared."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        group = rule.group(row[0]) if rule else None
        groups.setdefault(f"clip {row[0]}" if group is None else f"group {group}", []).append(row)
    if rule and not any(name.startswith("group ") for name in groups):
        raise InputError(f"--group {rule.name}: fits no clip, such as {rows[0][0]}" if rows else "--group: no clips")
    contents: dict[str, Counter[str]] = {}
    sizes: Counter[str] = Counter()
    for name, members in groups.items():
        labels = [text.split(BETWEEN_LABELS) if several_labels else [text] for _, text in members]
        contents[name] = Counter(chain.from_iterable(labels))
        sizes.update(contents[name])
    wanted = {label: min(round(share * size), size - 1) for label, size in sizes.items()}
    held: Counter[str] = Counter()
    taken: set[str] = set()

    def spared(name: str) -> bool:
        return all(held[label] + count < sizes[label] for label, count in contents[name].items())

    def gain(name: str) -> int:
        """By how many clips the classes come nearer to what is wanted of them."""
        return sum(
            abs(held[label] - wanted[label]) - abs(held[label] + count - wanted[label])
            for label, count in contents[name].items()
        )

    def take(name: str) -> None:
        taken.add(name)
        held.update(contents[name])

    order = sorted(groups)
    random.Random(0).shuffle(order)
    for name in order:
        if spared(name) and gain(name) > 0:
            take(name)
    for label in sorted(label for label, count in wanted.items() if count > 0):
        if not held[label]:
            fitting = [name for name in order if label in contents[name] and name not in taken and spared(name)]
            if fitting:
                take(max(fitting, key=gain))
    return {row for name in taken for row in groups[name]}
