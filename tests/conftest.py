"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips and weights beside the repository, or KINET_SHARED; skips where there is none."""
    folder = Path(os.environ.get("KINET_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "weights").is_dir():
        pytest.skip(f"real clips and weights are not at {folder} (set KINET_SHARED to their folder)")
    return folder
