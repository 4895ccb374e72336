"""A decoder with every fault there is, where worker processes can import it."""

from __future__ import annotations

import ctypes
import os
import signal
import time

from kinet.data.clip_check import Facts
from kinet.data.manifest import Clip


def work(item: tuple[str, int]) -> int:
    """A decoder with every fault there is."""
    fault, number = item
    match fault:
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "slow":
            time.sleep(0.5)
        case "hang":
            time.sleep(600)
        case "hang in compiled code":
            ctypes.PyDLL(None).sleep(600)  # a PyDLL call keeps Python's lock: no signal handler can run
        case "memory":
            blocks = []
            while True:
                blocks.append(bytearray(16 * 2**20))
        case "raise":
            raise ValueError("a bad\nheader")
    return number * number


def check(item: tuple[Clip, int]) -> Facts:
    """A scan's check of a clip whose name is its fault; clips with other names are found without problems."""
    work((item[0].name, 0))
    return Facts()
