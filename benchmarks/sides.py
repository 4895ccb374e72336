"""Two processes that do the same work in turn: A B A B ..., each idle while the other one works.

A side is a program that calls ``serve`` with what it can do; ``Side`` starts one and asks it. Requests are lines of
JSON on its standard input, answers lines on its standard output; what libraries print there goes to standard error.
Nothing but the standard library is used, because the peer runs in an environment of its own.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


class Side:
    """A running program that answers requests; it ends with the ``with`` block."""

    def __init__(self, name: str, command: Sequence[str | Path]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Have it call the function called ``do``; returns what that returns. Ends this program if it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"{self.name} ended with status {self._process.wait()} when asked to {do}; its messages are above")
        return json.loads(answer)

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(*functions: Callable[..., Any]) -> None:
    """Answer requests for these functions, and for ``versions`` and ``keep_memory``, until standard input ends."""
    by_name = {function.__name__: function for function in (*functions, versions, keep_memory)}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(by_name[request.pop("do")](**request)), file=answers, flush=True)


class Stopwatch:
    """Milliseconds since it was made: on the wall, and of all the process's threads on processors."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"ms": 1e3 * wall, "cpu_ms": 1e3 * cpu}


def versions(packages: list[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def keep_memory() -> bool:
    """Have glibc keep freed memory; by default it returns large blocks to the system and fetches them again."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}
    return all(mallopt(setting, value) for setting, value in settings.items())
