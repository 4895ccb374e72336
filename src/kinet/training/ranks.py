"""What the processes of one training tell each other; with one process, nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities import rank_zero_only
from torch import nn

from kinet.errors import Stopped

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")


def on_rank_zero(function: Function) -> Function:
    """The same function, which does nothing in the other processes that ``torchrun`` started."""
    return cast(Function, rank_zero_only(function))


def sum_over_ranks(fabric: Fabric, values: list[float]) -> list[float]:
    """The sums over all processes, in each of them."""
    if fabric.world_size == 1:
        return values
    total = fabric.all_reduce(torch.tensor(values, dtype=torch.float64, device=fabric.device), reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return cast(list[float], total.tolist())


def gather(fabric: Fabric, item: Item) -> list[Item]:
    """Every process's ``item`` by rank, in each of them."""
    if fabric.world_size == 1:
        return [item]
    items: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(items, item)
    return items


def share_buffers(fabric: Fabric, network: nn.Module) -> None:
    """Give every process the buffers of rank 0, whose statistics the checkpoints hold."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


@contextmanager
def lost_rank_in_one_line(fabric: Fabric, out: str) -> Iterator[None]:
    """Turn what the backends raise when another process is gone into ``Stopped``."""
    try:
        yield
    except RuntimeError as error:
        gone = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if fabric.world_size == 1 or not gone:
            raise
        raise Stopped(
            f"{out}: another process of this training ended, so process {fabric.global_rank} stops too; start all of"
            " them again with --resume auto"
        ) from error
