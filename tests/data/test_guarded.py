"""Processes that crash, hang, take all memory or raise cost one item each, and every item gets its outcome."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kinet.data.guarded import Failure, guarded_map

MEMORY = 256 * 2**20
Work = Callable[[tuple[str, int]], int]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """The square of an item's number, or its fault. Worker processes find the module by the path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("faults").work


def outcomes(work: Work, faults: list[str], workers: int = 2, timeout: float = 20) -> dict[int, int | Failure]:
    """By place in ``faults``."""
    items = [(fault, number) for number, fault in enumerate(faults)]
    found = {}
    for (_, number), outcome in guarded_map(work, items, workers=workers, timeout=timeout, memory=MEMORY):
        assert number not in found
        found[number] = outcome
    return found


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("segfault", Failure("crash", "the process died of SIGSEGV")),
        ("abort", Failure("crash", "the process died of SIGABRT")),
        ("killed", Failure("crash", "the process died of SIGKILL; most likely the system ran out of memory")),
        ("exit", Failure("crash", "the process ended itself (exit code 3)")),
        ("raise", Failure("error", "ValueError: a bad header")),
        pytest.param(
            "memory",
            Failure("memory", "wants more than 256 MB of memory"),
            marks=pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only"),
        ),
    ],
)
def test_a_fault_costs_one_item(work: Work, fault: str, failure: Failure) -> None:
    faults = ["", fault, "", "", fault, ""]
    assert outcomes(work, faults) == {0: 0, 1: failure, 2: 4, 3: 9, 4: failure, 5: 25}


@pytest.mark.parametrize("fault", ["hang", "hang in compiled code"])
def test_a_process_that_hangs_is_killed(work: Work, fault: str) -> None:
    begin = time.monotonic()
    assert outcomes(work, ["", fault, ""], workers=1, timeout=1) == {
        0: 0,
        1: Failure("timeout", "not done in 1 s"),
        2: 4,
    }
    assert time.monotonic() - begin < 20


def test_many_items_and_many_faults_lose_none(work: Work) -> None:
    faults = ["segfault" if number % 10 == 3 else "raise" if number % 10 == 7 else "" for number in range(200)]
    found = outcomes(work, faults)
    assert sorted(found) == list(range(200))
    assert all(found[number] == number * number for number in range(200) if not faults[number])
    assert Counter(type(outcome).__name__ for outcome in found.values()) == {"int": 160, "Failure": 40}


def test_results_can_keep_the_items_order(work: Work) -> None:
    items = [("slow" if number == 2 else "raise" if number == 4 else "", number) for number in range(30)]
    results = list(guarded_map(work, items, workers=2, timeout=20, memory=MEMORY, in_order=True))
    assert [number for (_, number), _ in results] == list(range(30))
    assert [outcome for _, outcome in results][3:6] == [9, Failure("error", "ValueError: a bad header"), 25]


def test_items_are_taken_as_they_are_needed_and_processes_end_with_the_caller(work: Work) -> None:
    taken = []

    def items():
        for number in range(1_000_000):
            taken.append(number)
            yield "", number

    others = set(multiprocessing.active_children())  # that earlier tests left
    results = guarded_map(work, items(), workers=2, timeout=20, memory=MEMORY)
    next(results)
    results.close()
    assert len(taken) < 50
    assert set(multiprocessing.active_children()) <= others
