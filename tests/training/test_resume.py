"""A training that was cut off anywhere ends as one that was not; stops, damage and full disks end in one line."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from kinet import cli
from kinet.config import Config
from kinet.errors import InputError
from kinet.training import engine
from kinet.training.checkpoint import load_checkpoint
from kinet.training.engine import train
from kinet.training.run_folder import to_plain

ToySet = Any  # tests/conftest.py's, which tests cannot import
TIMINGS = {"seconds", "data_wait", "clips_per_s"}


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def every_step(config: Config, **changes: Any) -> Config:
    return replace(config, training=replace(config.training, epochs=3, log_every=2, checkpoint_minutes=0, **changes))


def log(run: str | Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def weights(run: str | Path) -> dict[str, Tensor]:
    return load_checkpoint(Path(run) / "checkpoints" / "last.pt").model


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.fixture(scope="module")
def unbroken(toy: ToySet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KINet of 9 steps in 3 epochs that nothing interrupted, with checkpoints at the epochs' ends only."""
    config = every_step(toy.kinet(tmp_path_factory.mktemp("unbroken")))
    train(replace(config, training=replace(config.training, checkpoint_minutes=60)), labelling=toy.labelling)
    return Path(config.out)


def nth_call(real: Callable[..., Any], number: int, act: Callable[..., Any]) -> Callable[..., Any]:
    """``real``, but ``act`` in place of its call ``number``, from 1."""
    calls = []

    def patched(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        return (act if len(calls) == number else real)(*arguments, **named)

    return patched


def kill(*arguments: Any, **named: Any) -> None:
    raise Killed


def half_a_file(content: Any, file: Any) -> None:
    file.write(b"half a checkpoint")
    raise Killed


# what is replaced, by its owner and name; the call that ends it, and how; the steps that are then in the checkpoint
CUTS = {
    "within a step": (engine, "training_step", 5, kill, 4),
    "before an epoch's last checkpoint": (engine, "checkpoint_of", 4, kill, 3),
    "writing a checkpoint": (torch, "save", 6, half_a_file, 3),
    "within validation": (engine, "measure", 2, kill, 6),
    "logging an epoch": (engine, "save_checkpoint", 5, kill, 3),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_training_that_is_cut_off_ends_as_one_that_was_not(
    toy: ToySet, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    owner, name, number, act, steps = CUTS[cut]
    config = every_step(toy.kinet(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, nth_call(getattr(owner, name), number, act))
        with pytest.raises(Killed):
            train(config, labelling=toy.labelling)
    state = load_checkpoint(Path(config.out) / "checkpoints" / "last.pt").training
    assert state is not None
    assert state["position"]["step"] == steps
    torch.manual_seed(99)  # a new process would not have this one's random numbers
    train(config, labelling=toy.labelling, resume="auto")
    assert equal(weights(config.out), weights(unbroken))
    assert log(config.out) == log(unbroken)


def test_nothing_is_lost_between_the_renamings(toy: ToySet, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    (run / "checkpoints" / "last.pt").rename(run / "checkpoints" / "last.pt.tmp")
    train(every_step(toy.kinet(run)), labelling=toy.labelling, resume="auto")
    assert equal(weights(run), weights(unbroken))
    assert log(run) == log(unbroken)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    toy: ToySet, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    damage(run / "checkpoints" / "last.pt")
    train(every_step(toy.kinet(run)), labelling=toy.labelling, resume="auto")
    told = capfd.readouterr().err
    assert "last.pt: damaged, its SHA-256 is not the one at its end; delete it; going on from the one before" in told
    assert equal(weights(run), weights(unbroken))
    assert log(run) == log(unbroken)

    for name in ("last.pt", "previous.pt"):
        damage(run / "checkpoints" / name)
    with pytest.raises(InputError, match=r"previous\.pt: damaged"):
        train(every_step(toy.kinet(run)), labelling=toy.labelling, resume="auto")


@pytest.mark.parametrize("place", ["training_step", "measure"])
def test_sigterm_saves_and_the_command_says_so_by_its_code(
    toy: ToySet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: str,
) -> None:
    """In a step, and in the second epoch's validation. The loading process gets the signal too, as batch systems do."""
    config = toy.tsn(tmp_path / "run")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_plain({"model": asdict(config.model), "training": asdict(config.training)})))
    data = {"train": toy.train, "val": toy.val, "frame_size": [64, 80], "input_size": 64, "batch_size": 4, "workers": 1}
    arguments = ["train", str(file), "--out", config.out]
    arguments += [text for key, value in data.items() for text in (f"--data.{key}", str(value))]
    before = signal.getsignal(signal.SIGTERM)
    real = getattr(engine, place) if place == "training_step" else engine.ViewDataset

    def interrupted(*arguments: Any) -> Any:
        processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
        subprocess.run(["kill", "-TERM", *map(str, processes)], check=True)  # torch's loaders heed whom it comes from
        return real(*arguments)

    with monkeypatch.context() as patch:
        name = "training_step" if place == "training_step" else "ViewDataset"
        patch.setattr(engine, name, nth_call(real, 2, interrupted))
        assert cli.main(arguments) == cli.STOPPED == 75
    assert signal.getsignal(signal.SIGTERM) is before
    steps = 2 if place == "training_step" else 6
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"kinet: {config.out}: stopped by SIGTERM and saved at step {steps}; go on with --resume auto"
    )
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").training
    assert state is not None
    assert state["position"]["step"] == steps
    assert cli.main([*arguments, "--resume", "auto"]) == 0
    assert [row["step"] for row in log(config.out) if "epoch" not in row] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in log(config.out) if "epoch" in row] == [1, 2]


def test_a_full_disk_ends_in_one_line_with_the_last_checkpoint_whole(
    toy: ToySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = every_step(toy.tsn(tmp_path / "run"))

    def half(content: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        file.error = OSError(errno.ENOSPC, "No space left on device")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", nth_call(torch.save, 3, half))
        with pytest.raises(InputError, match="no space is left on the disk") as caught:
            train(config)
    assert "\n" not in str(caught.value)
    assert sorted(file.name for file in (tmp_path / "run" / "checkpoints").iterdir()) == ["last.pt", "previous.pt"]
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").training
    assert state is not None
    assert state["position"]["step"] == 2


def test_a_checkpoint_of_an_earlier_version_is_refused(toy: ToySet, tsn_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    content = torch.load(tsn_run / "checkpoints" / "last.pt", weights_only=True)
    content["training"]["random"] = content["training"].pop("random")[0]["cpu"]
    del content["training"]["window"]
    torch.save(content, path)
    with pytest.raises(InputError, match="an earlier kinet's, its training state has no 'window'"):
        train(toy.tsn(tmp_path / "run"), resume=str(path))


def test_changed_settings_are_said(
    toy: ToySet, tsn_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = toy.tsn(tmp_path / "run")
    changed = replace(
        config,
        data=replace(config.data, batch_size=6),
        training=replace(config.training, lr=0.01, epochs=3),
    )
    train(changed, resume=str(tsn_run / "checkpoints" / "last.pt"))
    told = capfd.readouterr().err
    assert told.startswith(f"{tmp_path / 'run'}: goes on with other settings: ")
    assert "data.batch_size was 4, is 6; training.lr was 0.02, is 0.01\n" in told


@pytest.mark.parametrize(("key", "value"), [("weight_decay", 1e-3), ("momentum", 0.5), ("seed", 4)])
def test_settings_that_lie_in_the_state_are_refused(
    toy: ToySet, tsn_run: Path, tmp_path: Path, key: str, value: float
) -> None:
    config = toy.tsn(tmp_path / "run")
    config = replace(config, training=replace(config.training, **{key: value}))
    with pytest.raises(InputError, match=rf"training\.{key} is {value}, the checkpoint's was"):
        train(config, resume=str(tsn_run / "checkpoints" / "last.pt"))


def test_another_number_of_clips_is_refused_inside_an_epoch_only(
    toy: ToySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = every_step(toy.tsn(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "training_step", nth_call(engine.training_step, 3, kill))
        with pytest.raises(Killed):
            train(config)
    fewer = replace(config, data=replace(config.data, train=str(toy.manifest(tmp_path / "fewer.csv", clips=10))))
    with pytest.raises(InputError, match=r"data\.train has 10 clips, and had 12 in the epoch that goes on"):
        train(fewer, resume="auto")


def test_the_wait_for_clips_is_told(
    toy: ToySet, tsn_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "LONG_WAIT", 0.0)
    config = toy.tsn(tmp_path / "run")
    result = train(config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["data_wait"] < 1 and row["clips_per_s"] > 0 for row in rows)
    epochs = [row["data_wait"] for row in rows if "epoch" in row]
    assert min(epochs) <= result["data_wait"] <= max(epochs) + 1e-4
    told = capfd.readouterr().err
    assert "data_wait" in told
    assert told.count("raise data.workers (0 now), or pack the clips with kinet pack") == 1  # of two epochs


def test_the_environment_names_what_auto_was_found_to_be(tsn_run: Path) -> None:
    environment = json.loads((tsn_run / "environment.json").read_text())
    assert (environment["device"], environment["precision"], environment["processes"]) == ("cpu", "32-true", 1)
