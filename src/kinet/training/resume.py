"""The state of a training that a checkpoint holds besides the network, and how a training goes on from it.

optimizer   its state dict
position    the fields of ``Position``
epoch       sums and counts of the means of the epoch at work
window      the same since the last line of metrics.jsonl
random      the random states of every process, by rank
clips       how many clips data.train had
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from kinet.config import Config
from kinet.errors import InputError
from kinet.models.kinet import KINet
from kinet.training.checkpoint import Checkpoint
from kinet.training.position import Means, Position
from kinet.training.ranks import gather

FIXED = (
    "training.seed",
    "training.momentum",
    "training.weight_decay",
    "training.new_layers_lr",
    "training.partial_bn",
    "training.freeze_until",
)
"""Settings that a training can't change on its way: they lie in the optimiser's state, or in the clips' order."""
UNTOLD = ("out", "data.workers", "training.epochs", "training.log_every", "training.checkpoint_minutes")
"""Settings that change what is left to do or how it is told, and nothing that was learnt so far."""
PARTS = ("optimizer", "position", "epoch", "window", "random", "clips")


def training_state(
    fabric: Fabric, optimizer: torch.optim.Optimizer, position: Position, epoch: Means, window: Means, clips: int
) -> dict[str, Any]:
    """The state; every process takes part. ``epoch`` and ``window`` are the means over all of them."""
    return {
        "optimizer": optimizer.state_dict(),
        "position": asdict(position),
        "epoch": epoch.totals(),
        "window": window.totals(),
        "random": gather(fabric, random_state(fabric.device)),
        "clips": clips,
    }


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's generators that a training draws from, which are the dropouts'."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(fabric: Fabric, states: Sequence[dict[str, torch.Tensor]], seed: int, step: int) -> None:
    """Go on with this process's random numbers; one without a state (at the start, or of a rank that the checkpoint
    did not have) begins some of its own. Rank 0 begins with those that the network was made with.
    """
    if fabric.global_rank < len(states):
        state = states[fabric.global_rank]
        torch.set_rng_state(state["cpu"])
        if fabric.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], fabric.device)
    elif fabric.global_rank > 0:
        torch.manual_seed(hash((seed, step, fabric.global_rank)))


def check_same_training(
    checkpoint: Checkpoint, config: Config, classes: Sequence[str], scene_names: Sequence[str], clips: int
) -> list[str]:
    """Refuse to go on with other classes, or with settings that can't change on the way, than the checkpoint's.

    Returns:
        The other settings that differ and matter, each as ``key was BEFORE, is NOW``.
    """
    for what, before, now in (
        ("classes of data.train", checkpoint.classes, classes),
        ("scenes of teachers.scene", checkpoint.scene_names, scene_names),
    ):
        if list(before) != list(now):
            old = next((name for name in before if name not in now), "none")
            new = next((name for name in now if name not in before), "none")
            raise InputError(
                f"{config.out}: the checkpoint's {len(before)} {what} are not these {len(now)} (gone: {old}; new: "
                f"{new}); go on with the same, or train anew in another --out"
            )
    state = checkpoint.training or {}
    missing = [part for part in PARTS if part not in state]
    if missing:
        raise InputError(
            f"{config.out}: the checkpoint is an earlier kinet's, its training state has no {missing[0]!r}; train anew"
            " in another --out"
        )
    if state["position"]["clips"] and state["clips"] != clips:
        raise InputError(
            f"{config.out}: data.train has {clips} clips, and had {state['clips']} in the epoch that goes on; go on"
            " with the same"
        )
    settings_before = dict(settings(asdict(checkpoint.config)))
    changed = []
    for key, setting in settings(asdict(config)):
        former = settings_before.get(key)
        if former == setting or key in UNTOLD:
            continue
        if key in FIXED:
            raise InputError(f"{config.out}: {key} is {setting}, the checkpoint's was {former}; go on with that")
        changed.append(f"{key} was {former}, is {setting}")
    return changed


def settings(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``section.name`` and value of each setting."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check_same_teachers(state: Mapping[str, Tensor], model: KINet, source: str) -> None:
    """Refuse to go on with another teacher in a fixed branch than the checkpoint's."""
    for name, tensor in model.fixed.state_dict().items():
        task, part, _ = name.split(".", 2)
        if part == "teacher" and not tensor.equal(state[f"fixed.{name}"]):
            raise InputError(
                f"{source}: teachers.{task} is not the one that this run began with; go on with that, or train anew in "
                "another --out"
            )
