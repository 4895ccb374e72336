"""The scenes of Places365 (Zhou et al., TPAMI 2017), in the order of its published networks' outputs."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import NamedTuple


class Scene(NamedTuple):
    name: str
    """As Places365 writes it, without the letter before it: ``airfield``, ``church/indoor``."""
    indoor: bool


@cache
def places365() -> tuple[Scene, ...]:
    """All 365. Source: categories_places365.txt and IO_places365.txt of CSAILVision/places365."""
    text = resources.files(__package__).joinpath("places365.csv").read_text(encoding="utf-8")
    return tuple(Scene(row["scene"], row["where"] == "indoor") for row in csv.DictReader(text.splitlines()))
