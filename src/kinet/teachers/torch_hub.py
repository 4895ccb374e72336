"""Teachers from torch.hub: ``hub:OWNER/NAME:REF:MODEL`` on GitHub, or ``hub:FOLDER:MODEL``.

A torch.hub repository is code that runs here with all rights of the user, so none is opened unless the teacher's
``trust`` is set. REF, a tag or a branch, is asked for so that the code is the same tomorrow (a branch moves).
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinet.errors import InputError
from kinet.models.zoo import first_line
from kinet.teachers.foreign_net import ForeignNet, Pixels
from kinet.teachers.teacher_config import READING, TORCH_HUB, TeacherConfig, refuse_settings

PIXELS = {
    "unit": Pixels(),
    "symmetric": Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "imagenet": Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "byte": Pixels(factor=1.0),
}
"""By ``TeacherConfig.scale``."""
REFUSED = (*READING, "network")


def open_torch_hub(config: TeacherConfig) -> tuple[ForeignNet, tuple[str, ...], tuple[int, int]]:
    """The network, numbers for its classes' names, and its input size.

    Raises:
        InputError: trust, scale or input_size is not set; no such repository or model; its code fails; what it gives
            is no network of logits.
    """
    name = config.path
    refuse_settings(config, REFUSED, f"{name}: {{}} is no setting of a torch.hub model")
    if not config.trust:
        raise InputError(
            f"{name}: refused, torch.hub would run this repository's code on your machine with your rights;"
            " read it, then set this teacher's trust: true"
        )
    if config.scale is None:
        raise InputError(f"{name}: set this teacher's scale: {', '.join(PIXELS)}")
    if config.input_size is None:
        raise InputError(f"{name}: set this teacher's input_size: [height, width]")
    repository, entry = parted(name)
    model = load(repository, entry, config.arguments or {}, name)
    facts = {"model": entry, "arguments": config.arguments or {}, "code": code_hash(repository)}
    pixels = PIXELS[config.scale]
    if config.channels == "bgr":
        pixels = replace(pixels, mean=pixels.mean[::-1], std=pixels.std[::-1], bgr=True)
    network = ForeignNet(name, model.float(), pixels, config.input_size, facts, task=config.task, output=config.output)
    return network, tuple(str(number) for number in range(network.channels)), config.input_size


def parted(path: str) -> tuple[str, str]:
    """A folder, or ``OWNER/NAME:REF``; and the model's name."""
    repository, _, entry = path.removeprefix(TORCH_HUB).rpartition(":")
    if repository and entry and Path(repository).expanduser().is_dir():
        return str(Path(repository).expanduser()), entry
    owner, _, ref = repository.partition(":")
    if owner.count("/") != 1 or not ref or not entry:
        raise InputError(f"{path}: no such folder, and not hub:OWNER/NAME:REF:MODEL; REF is a tag or a branch")
    return repository, entry


def load(repository: str, entry: str, arguments: dict[str, Any], name: str) -> nn.Module:
    """What the repository's ``entry`` gives."""
    settings = {"source": "local" if Path(repository).is_dir() else "github", "trust_repo": True, "verbose": False}
    try:
        with redirect_stdout(sys.stderr):  # torch.hub prints what it downloads
            model = torch.hub.load(repository, entry, **settings, **arguments)  # type: ignore[no-untyped-call]
    except Exception as error:  # code of others can raise anything
        raise InputError(f"{name}: torch.hub cannot load it ({first_line(error)})") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{name}: gives a {type(model).__name__}, not a network")
    return model


def code_hash(repository: str) -> str:
    """SHA-256 over a repository's Python files: what their names are, and what is in them."""
    folder = Path(repository)
    if not folder.is_dir():
        owner, _, ref = repository.partition(":")
        folder = Path(torch.hub.get_dir()) / "_".join([*owner.split("/"), ref.replace("/", "_")])
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode("utf-8", "surrogateescape"))
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
