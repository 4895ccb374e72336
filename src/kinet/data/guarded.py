"""Work that may crash, hang or take all memory, done in processes that may be lost."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Literal, TypeVar

from pebble import ProcessExpired, ProcessPool

Item = TypeVar("Item")
Result = TypeVar("Result")
ITEMS_A_PROCESS = 500  # then a fresh one: memory that a library loses does not add up
AHEAD = 4  # items handed out for each process
GRACE = 30  # seconds


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no result, ``cause`` in one line."""

    kind: Literal["timeout", "memory", "crash", "error"]
    cause: str


def guarded_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    timeout: float,
    memory: int,
    in_order: bool = False,
) -> Iterator[tuple[Item, Result | Failure]]:
    """``function`` of every item, in ``workers`` processes; results come as they are ready, or in the items' order.

    Whatever becomes of the process is the one item's failure, and a fresh process takes the next: it dies of a
    signal, it takes longer than ``timeout`` seconds (it is killed), it wants more than ``memory`` bytes on top
    of what it had at its start (Linux only: other systems have no such limit), or an exception leaves it.

    ``function`` must be importable; items and results travel by pickle, between own processes only.
    """
    context = _context(function.__module__)
    pool = ProcessPool(workers, ITEMS_A_PROCESS, initializer=_begin, initargs=(memory,), context=context)
    try:
        rest = enumerate(items)
        running: dict[Future[Result], tuple[int, Item]] = {}
        ready: dict[int, tuple[Item, Result | Failure]] = {}
        first = 0  # the number of the first item whose result was not yet given
        while True:
            for number, item in islice(rest, AHEAD * workers - len(running) - len(ready)):
                running[pool.schedule(_call, (function, item, timeout), timeout=timeout)] = number, item
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                (number, item), error = running.pop(future), future.exception()
                ready[number] = item, future.result() if error is None else _failure(error, timeout, memory)
            for number in sorted(ready):
                if not in_order or number == first:
                    first += 1
                    yield ready.pop(number)
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _context(module: str) -> BaseContext:
    """Fresh processes are forked from one that has only imported ``module``: quick, and no threads are copied."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _begin(memory: int) -> None:
    """Set up a fresh process: a limit for its memory, no core dumps, and death at once when it is told to go."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's own handler waits for compiled code to return
    if sys.platform != "linux":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _call(function: Callable[[Item], Result], item: Item, timeout: float) -> Result:
    """The function's result. The alarm ends a process that hangs after its caller was killed."""
    if sys.platform != "win32":
        signal.alarm(math.ceil(timeout) + GRACE)
    try:
        return function(item)
    finally:
        if sys.platform != "win32":
            signal.alarm(0)


def _failure(error: BaseException, timeout: float, memory: int) -> Failure:
    if isinstance(error, ProcessExpired):
        return Failure("crash", _death(error.exitcode))
    if isinstance(error, TimeoutError):
        return Failure("timeout", f"not done in {timeout:g} s")
    if isinstance(error, MemoryError):
        return Failure("memory", f"wants more than {memory / 2**20:.0f} MB of memory")
    return Failure("error", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _death(code: int) -> str:
    if code >= 0:
        return f"the process ended itself (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = "; most likely the system ran out of memory" if name == "SIGKILL" else ""
    return f"the process died of {name}{memory}"
