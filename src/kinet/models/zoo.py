"""Backbones by name, and their published ImageNet weights.

Weights come from a file of plain tensors, which can be one that the user names or the official one: of torch hub's
cache, or fetched from its address into that cache. Loading never runs code from a file.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import os
import pickle
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinet.errors import InputError
from kinet.models.backbone import Backbone
from kinet.models.bn_inception import BNInception
from kinet.models.densenet import DenseNet121, present_names
from kinet.models.inception_v3 import InceptionV3
from kinet.models.mobilenet_v2 import MobileNetV2
from kinet.models.resnet import LAYOUTS, NARROW_PLANES, ResNet

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet10_narrow": partial(ResNet, 10, stage_planes=NARROW_PLANES),  # for the demo; nobody publishes weights
    **{f"resnet{depth}": partial(ResNet, depth) for depth in LAYOUTS if depth != 10},
    "bn_inception": BNInception,
    "densenet121": DenseNet121,
    "inception_v3": InceptionV3,
    "mobilenet_v2": MobileNetV2,
}
"""Each takes ``classes`` (1000) and ``inner_width`` (1.0)."""

TORCHVISION = "https://download.pytorch.org/models/"
CADENE = "http://data.lip6.fr/cadene/pretrainedmodels/"
# backbone: {weights: address}. torchvision's IMAGENET1K_V1 and _V2. A name ends in the start of the file's SHA-256.
OFFICIAL = {
    "resnet18": {"imagenet": TORCHVISION + "resnet18-f37072fd.pth"},
    "resnet34": {"imagenet": TORCHVISION + "resnet34-b627a593.pth"},
    "resnet50": {
        "imagenet": TORCHVISION + "resnet50-0676ba61.pth",
        "imagenet_v2": TORCHVISION + "resnet50-11ad3fa6.pth",
    },
    "resnet101": {
        "imagenet": TORCHVISION + "resnet101-63fe2227.pth",
        "imagenet_v2": TORCHVISION + "resnet101-cd907fc2.pth",
    },
    "resnet152": {
        "imagenet": TORCHVISION + "resnet152-394f9c45.pth",
        "imagenet_v2": TORCHVISION + "resnet152-f82ba261.pth",
    },
    "bn_inception": {"imagenet": CADENE + "bn_inception-52deb4733.pth"},
    "densenet121": {"imagenet": TORCHVISION + "densenet121-a639ec97.pth"},
    "inception_v3": {"imagenet": TORCHVISION + "inception_v3_google-0cc3c7bd.pth"},
    "mobilenet_v2": {
        "imagenet": TORCHVISION + "mobilenet_v2-b0353104.pth",
        "imagenet_v2": TORCHVISION + "mobilenet_v2-7ebf99e0.pth",
    },
}
# Cadene's file for BN-Inception and its predecessor: the first convolution reads BGR.
BGR_FILES = ("52deb4733", "239d2248")

State = dict[str, Tensor]


def build_backbone(name: str, *, weights: str | None = None, inner_width: float = 1.0) -> Backbone:
    """A backbone with its classifier of 1000 ImageNet classes, on the CPU in float32.

    Args:
        name: one of ``BACKBONES``.
        weights: ``None`` or ``"none"``: random. ``"imagenet"``, for some backbones ``"imagenet_v2"``: the official
            file, checked against the hash in its name. Else the path of a file that ``torch.save`` wrote of a
            state dict of this backbone at full width; a hash in its name (``-0123abcd.pth``) is checked.
        inner_width: 0 < inner_width <= 1 scales the channels inside of blocks. From weights of full width, each
            tensor's leading channels are kept: a starting point for training, no ImageNet classifier.

    Raises:
        InputError: an unknown name or width, or weights that cannot be had, read or fitted.
    """
    if name not in BACKBONES:
        nearest = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0)[0]
        raise InputError(f"no backbone {name!r}, nearest is {nearest!r} (there are: {', '.join(BACKBONES)})")
    if not 0 < inner_width <= 1:
        raise InputError(f"inner_width of {name}: {inner_width} is not above 0 and up to 1")
    backbone = BACKBONES[name](inner_width=inner_width)
    if weights is None or weights == "none":
        return backbone
    path = find_weights(name, weights)
    state = published_state(name, path)
    with torch.device("meta"):
        full = BACKBONES[name]()
    check_fit(state, full, f"weights {path} do not fit {name}")
    narrowed = {key: leading(state[key], target) for key, target in backbone.state_dict().items() if key in state}
    backbone.load_state_dict(narrowed)
    return backbone


def find_weights(name: str, weights: str) -> Path:
    """The file that ``weights`` stands for: a path, or the official file, fetched if need be.

    Raises:
        InputError: there is no such file, or it could not be fetched.
    """
    official = OFFICIAL.get(name, {})
    if weights in official:
        return fetch(official[weights])
    path = Path(weights).expanduser()
    if not path.is_file():
        choices = ", ".join(repr(choice) for choice in ("none", *official))
        what = "no official file" if weights.startswith("imagenet") else "no file"
        raise InputError(f"weights of {name}: {what} {weights!r} is known; give {choices} or the path of a file")
    return path


def fetch(url: str) -> Path:
    """The file of that address in torch hub's cache (``$TORCH_HOME/hub/checkpoints``), downloaded if it is not there.

    Raises:
        InputError: the download failed, or gave another file than its name says.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=hash_in_name(path))
    # RuntimeError is torch hub's for a wrong hash; the connection's and the disk's errors are the others
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise InputError(f"{url} could not be downloaded ({first_line(error)}); put that file at {path}") from error
    return path


def published_state(name: str, path: Path) -> State:
    """The tensors of a weights file of that backbone under the names and in the conventions of this package.

    Inception V3's auxiliary classifier is left out. DenseNet's old names are renewed. BN-Inception's published files
    have (1, C) for BN's (C,), and their first convolution reads BGR.

    Raises:
        InputError: see ``read_weights``.
    """
    state = renewed_state(name, read_weights(path))
    if name == "bn_inception" and sha256(path).startswith(BGR_FILES) and "conv1_7x7_s2.weight" in state:
        state["conv1_7x7_s2.weight"] = state["conv1_7x7_s2.weight"].flip(1)
    return state


def renewed_state(name: str, state: State) -> State:
    """The tensors under the names and shapes of this package; see ``published_state``."""
    if name == "inception_v3":
        state = {key: tensor for key, tensor in state.items() if not key.startswith("AuxLogits.")}
    if name == "densenet121":
        state = present_names(state)
    if name == "bn_inception":
        state = {key: tensor[0] if is_row(key, tensor) else tensor for key, tensor in state.items()}
    return state


def is_row(key: str, tensor: Tensor) -> bool:
    return "_bn." in key and tensor.ndim == 2 and len(tensor) == 1


def read_weights(path: Path) -> State:
    """A state dict from a file that ``torch.save`` wrote, on the CPU, without running code from it.

    A ``state_dict`` around it and the prefix ``module.`` of its keys are taken off.

    Raises:
        InputError: the file is missing, is damaged, is not the file its name's hash says, or holds more than tensors.
    """
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise InputError(f"weights {path}: no such file, or no permission to read it")
    expected = hash_in_name(path)
    if expected is not None and not (digest := sha256(path)).startswith(expected):
        raise InputError(
            f"weights {path}: damaged or another file, its SHA-256 begins {digest[: len(expected)]}, not as its name "
            "says; delete it and fetch it again, or rename it if that part of the name is no hash"
        )
    return state_in(load_plain(path, f"weights {path}"), path)


def state_in(content: Any, path: Path) -> State:
    """The state dict that a file's plain values are; see ``read_weights``. Raises InputError."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise InputError(f"weights {path}: holds a {type(content).__name__}, not a state dict")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise InputError(f"weights {path}: {key!r} is a {type(value).__name__}, not a tensor; is it a state dict?")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_plain(path: Path, what: str) -> Any:
    """What ``torch.save`` wrote to ``path``, on the CPU, if it is plain values and tensors.

    Raises:
        InputError: the file is damaged, or loading it would run code. The line begins with ``what``.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        call = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"loading it would call {call[1]}" if call else "it is no file of plain tensors"
        raise InputError(f"{what}: refused, {reason}; save a state dict with torch.save") from error
    except Exception as error:  # a damaged file can bring torch's reader to any error
        raise InputError(f"{what}: cannot be read ({first_line(error)}); fetch it again") from error


def check_fit(state: Mapping[str, Tensor], network: nn.Module, what: str) -> None:
    """Nothing if ``network`` has exactly the keys and shapes of ``state``; BN's batch counters may be missing.

    Raises:
        InputError: one line that begins with ``what``.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    reshaped = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if not (missing or unexpected or reshaped):
        return
    if reshaped:
        key = reshaped[0]
        first = f"{key} is {tuple(state[key].shape)} in the file, {tuple(wanted[key].shape)} in the network"
    else:
        first = f"{missing[0]} is not in the file" if missing else f"{unexpected[0]} is not in the network"
    raise InputError(
        f"{what}: {first}; {len(missing)} missing, {len(unexpected)} unexpected, {len(reshaped)} of another shape: "
        "this file is of another architecture or other classes"
    )


def leading(tensor: Tensor, target: Tensor) -> Tensor:
    """The part of ``tensor`` with the shape of ``target`` that begins at index 0 of every axis."""
    return tensor[tuple(slice(length) for length in target.shape)]


def hash_in_name(path: Path) -> str | None:
    """The start of a SHA-256 in names like ``resnet50-0676ba61.pth``, by torch hub's custom, or None."""
    found = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    return found[1] if found else None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
