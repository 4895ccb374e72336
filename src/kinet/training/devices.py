"""Where a training runs and in which precision."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from kinet.config import Config
from kinet.errors import InputError

Precision = Literal["auto", "bf16-mixed", "32-true"]

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def build_fabric(config: Config, *, log: bool = True, steps: int = 0) -> Fabric:
    """Fabric for the config's device and precision; under ``torchrun`` it joins the other processes.

    Args:
        log: write TensorBoard files into ``config.out``.
        steps: done before; TensorBoard drops what an interrupted session wrote behind them.

    Raises:
        InputError: ``training.device`` is cuda and there is none.
    """
    return make_fabric(config.training.device, config.training.precision, config.out if log else None, steps)


def make_fabric(device: str, precision: Precision, log_folder: str | None, steps: int = 0) -> Fabric:
    """The same from single settings; TensorBoard files go into ``log_folder``."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device: cuda is not available here; set it to auto or cpu")
    if precision == "auto":
        precision = "bf16-mixed" if computes_bf16(device) else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        precision=precision,
        loggers=TensorBoardLogger(log_folder, "tensorboard", "", purge_step=steps + 1) if log_folder else None,
    )
    fabric.launch()
    return fabric


def computes_bf16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step.

    By default it returns large blocks to the system after every use and asks for them again, about 0.9 million page
    faults in a ResNet-50 forward pass of 24 frames. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 256 * 2**20)
