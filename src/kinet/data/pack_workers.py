"""Processes that encode clips. One that dies, of a decoder's crash say, costs the clip at work and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from kinet.data.clip import UnreadableClip
from kinet.data.pack_codec import EncodedClip, PackSettings, encode_clip

AHEAD = 2
"""Clips that may be waiting for each process."""


class Task(NamedTuple):
    """A clip to encode."""

    number: int
    """Its place in the manifest."""
    path: Path
    settings: PackSettings
    part: Path
    """Where its frames go."""


class Encoders:
    """``workers`` processes. They are spawned, not forked, so that they hold none of this one's files and threads."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = start_pool(workers)

    def __enter__(self) -> Encoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def encode(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, EncodedClip | UnreadableClip]]:
        """Encode clips side by side; results come in the order of ``tasks``, which are taken as needed."""
        waiting: deque[tuple[Task, Future[EncodedClip | UnreadableClip]]] = deque()
        while True:
            while len(waiting) < AHEAD * self.workers and (task := next(tasks, None)) is not None:
                waiting.append((task, self._submit(task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:  # some clip at work killed its process: this one, or a neighbour
                result = encode_alone(task)
            yield task, result

    def _submit(self, task: Task) -> Future[EncodedClip | UnreadableClip]:
        try:
            return self._pool.submit(run, task)
        except BrokenProcessPool:
            self._pool.shutdown()
            self._pool = start_pool(self.workers)
            return self._pool.submit(run, task)


def encode_alone(task: Task) -> EncodedClip | UnreadableClip:
    """Encode a clip in a process of its own, whose death is the clip's fault."""
    with start_pool(1) as pool:
        try:
            return pool.submit(run, task).result()
        except BrokenProcessPool:
            return UnreadableClip(task.path, "decoding it crashes")


def start_pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=follow_parent)


def follow_parent() -> None:
    """Leave interruptions to the parent, and end when it does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(task: Task) -> EncodedClip | UnreadableClip:
    task.part.unlink(missing_ok=True)  # of a process that died
    try:
        return encode_clip(task.path, task.settings, task.part)
    except UnreadableClip as error:
        task.part.unlink(missing_ok=True)
        return error
