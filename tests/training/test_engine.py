"""Whole trainings of a second: they learn, go on where they were stopped, and end in one line where they can't."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinet.config import Config, load_config
from kinet.data.manifest import Clip
from kinet.errors import InputError
from kinet.teachers.labelling import Labelling
from kinet.teachers.teacher import FrameLabels, Frames, LabelSource
from kinet.training import engine
from kinet.training.checkpoint import load_checkpoint
from kinet.training.engine import NonFiniteLoss, train

ToySet = Any  # tests/conftest.py's, which tests cannot import
TIMINGS = {"seconds", "data_wait", "clips_per_s"}


def rows(run: str | Path, *, epochs: bool | None = None) -> list[dict[str, float]]:
    """The log without its timings; rows of epochs or of steps only, as wanted."""
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if epochs is None or ("epoch" in line) == epochs]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def weights(run: str | Path) -> dict[str, Tensor]:
    return load_checkpoint(Path(run) / "checkpoints" / "last.pt").model


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def with_training(config: Config, **changes: Any) -> Config:
    return replace(config, training=replace(config.training, **changes))


def with_data(config: Config, **changes: Any) -> Config:
    return replace(config, data=replace(config.data, **changes))


def refusal(config: Config, labelling: Labelling | None = None, resume: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        train(config, labelling=labelling, resume=resume)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["tsn", "kinet"])
def test_the_loss_falls_and_the_clips_are_learnt(toy: ToySet, tmp_path: Path, kind: str) -> None:
    config = with_training(getattr(toy, kind)(tmp_path / "run"), epochs=5)
    result = train(config, labelling=toy.labelling if kind == "kinet" else None)
    epochs = rows(config.out, epochs=True)
    falls = {"loss_action": 0.6} if kind == "tsn" else {"loss_action": 0.6, "loss_human": 0.6, "loss_scene": 0.9}
    for term, share in falls.items():
        assert epochs[-1][term] < share * epochs[0][term], term
    assert result["val_top1"] == 100
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["clips"], result["skipped"], result["epochs"]) == (12, 0, 5)
    assert result["best_epoch"] == next(row["epoch"] for row in epochs if row["val_top1"] == 100)


def test_the_three_losses_and_the_edge_entropy_are_logged_apart(toy: ToySet, kinet_run: Path, tsn_run: Path) -> None:
    config = toy.kinet(kinet_run)
    for row in rows(kinet_run):
        total = row["loss_action"] + config.loss.human * row["loss_human"] + config.loss.scene * row["loss_scene"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)
        assert 0 < row["edge_entropy"] <= 1
        assert row["gradient_norm"] > 0
    for row in rows(tsn_run):
        assert row["loss"] == row["loss_action"]
        assert not {"loss_human", "loss_scene", "edge_entropy"} & row.keys()


def test_the_log_has_every_step_and_epoch(kinet_run: Path) -> None:
    assert [row["step"] for row in rows(kinet_run, epochs=False)] == [1, 2, 3, 4, 5, 6]
    steps, epochs = rows(kinet_run, epochs=False), rows(kinet_run, epochs=True)
    assert [(row["step"], row["epoch"]) for row in epochs] == [(3, 1), (6, 2)]
    for number, epoch in enumerate(epochs):
        mean = np.mean([row["loss"] for row in steps[3 * number : 3 * number + 3]])
        assert epoch["loss"] == pytest.approx(mean)
        assert {"val_top1", "val_top5", "val_mean_class"} <= epoch.keys()


def test_the_run_folder(toy: ToySet, kinet_run: Path) -> None:
    files = {str(path.relative_to(kinet_run)) for path in kinet_run.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/events")}
    assert events
    assert files - events == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
    }
    assert load_config(kinet_run / "config.yaml") == toy.kinet(kinet_run)
    versions = json.loads((kinet_run / "environment.json").read_text())["versions"]
    assert versions["torch"] == torch.__version__
    best, last = (load_checkpoint(kinet_run / "checkpoints" / f"{name}.pt") for name in ("best", "last"))
    assert best.training is None
    assert last.training is not None
    assert best.results["val_top1"] == max(row["val_top1"] for row in rows(kinet_run, epochs=True))
    assert (best.classes, best.scene_names) == (sorted(toy.classes), ["sea", "wood", "sand"])


def test_without_validation_the_last_epoch_is_the_best(toy: ToySet, tmp_path: Path) -> None:
    config = with_data(toy.tsn(tmp_path / "run"), val=None)
    result = train(config)
    assert (result["val_top1"], result["best_epoch"]) == (None, 2)
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert equal(best.model, weights(config.out))


def test_the_seed_decides_and_workers_do_not(toy: ToySet, kinet_run: Path, tmp_path: Path) -> None:
    config = toy.kinet(tmp_path / "one worker")
    train(with_data(config, workers=1), labelling=toy.labelling)
    assert equal(weights(config.out), weights(kinet_run))
    assert rows(config.out) == rows(kinet_run)

    other = with_training(toy.kinet(tmp_path / "other seed"), seed=1)
    train(other, labelling=toy.labelling)
    assert not equal(weights(other.out), weights(kinet_run))


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_training_ends_as_one_that_was_not(
    toy: ToySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Stopped amid the third epoch of four: bit for bit the same weights, and the same log but for the times."""
    unbroken = with_training(toy.kinet(tmp_path / "unbroken"), epochs=4, milestones=[3], warmup_steps=4)
    whole = train(unbroken, labelling=toy.labelling)
    broken = with_data(replace(unbroken, out=str(tmp_path / "broken")), workers=workers)

    step = engine.training_step

    def step_until_killed(training: engine.Training, *rest: Any) -> dict[str, float]:
        if training.position.step == 9:
            raise Killed
        return step(training, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "training_step", step_until_killed)
        with pytest.raises(Killed):
            train(broken, labelling=toy.labelling)
    assert [row["step"] for row in rows(broken.out, epochs=False)] == [1, 2, 3, 4, 5, 6, 7, 8]
    torch.manual_seed(99)  # a new process would not have this one's random numbers
    resumed = train(broken, labelling=toy.labelling, resume="auto")

    assert equal(weights(broken.out), weights(unbroken.out))
    assert rows(broken.out) == rows(unbroken.out)
    for name in ("best_epoch", "val_top1", "epochs"):
        assert resumed[name] == whole[name]
    first, second = (load_checkpoint(Path(run) / "checkpoints" / "last.pt") for run in (broken.out, unbroken.out))
    assert first.training is not None
    assert second.training is not None
    momenta = [state.training["optimizer"]["state"] for state in (first, second)]  # type: ignore[index]
    assert momenta[0].keys() == momenta[1].keys()
    assert all(momenta[0][i]["momentum_buffer"].equal(momenta[1][i]["momentum_buffer"]) for i in momenta[0])


def test_more_epochs_can_be_added(toy: ToySet, kinet_run: Path, tmp_path: Path) -> None:
    """From another run's checkpoint into a new folder, and on in the same; validated or not on the way."""
    unbroken = with_training(toy.kinet(tmp_path / "unbroken"), epochs=4, validate_every=3)
    train(unbroken, labelling=toy.labelling)
    added = with_training(toy.kinet(tmp_path / "added"), epochs=3)
    train(added, labelling=toy.labelling, resume=str(kinet_run / "checkpoints" / "last.pt"))
    assert [row["epoch"] for row in rows(added.out, epochs=True)] == [3]
    train(with_training(added, epochs=4), labelling=toy.labelling, resume="auto")
    assert [row["epoch"] for row in rows(added.out, epochs=True)] == [3, 4]
    assert equal(weights(added.out), weights(unbroken.out))
    assert ["val_top1" in row for row in rows(unbroken.out, epochs=True)] == [False, False, True, True]


def test_resuming_a_finished_run_changes_nothing(toy: ToySet, kinet_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(kinet_run, run)
    config = toy.kinet(run)
    result = train(config, labelling=toy.labelling, resume="auto")
    assert equal(weights(run), weights(kinet_run))
    assert rows(run) == rows(kinet_run)
    before = json.loads((kinet_run / "result.json").read_text())
    assert result | {"run": ""} == before | {"run": ""}


def test_auto_starts_anew_where_nothing_was_trained(toy: ToySet, tsn_run: Path, tmp_path: Path) -> None:
    config = toy.tsn(tmp_path / "run")
    train(config, resume="auto")
    assert rows(config.out) == rows(tsn_run)


def test_a_folder_that_holds_a_run_is_refused(toy: ToySet, tsn_run: Path) -> None:
    before = (tsn_run / "metrics.jsonl").read_bytes()
    assert "holds a run; go on with --resume auto" in refusal(toy.tsn(tsn_run))
    assert (tsn_run / "metrics.jsonl").read_bytes() == before


def change_classes(config: Config, toy: ToySet, folder: Path) -> Config:
    path = folder / "renamed.csv"
    path.write_text(toy.manifest(folder / "all.csv").read_text().replace(",hiking", ",climbing"))
    return with_data(config, train=str(path), val=None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_classes, "3 classes of data.train are not these 3 (gone: hiking; new: climbing)"),
        (lambda config, *_: with_training(config, new_layers_lr=5.0), "training.new_layers_lr is 5.0"),
        (lambda config, *_: with_training(config, partial_bn=True), "training.partial_bn is True"),
        (
            lambda config, *_: replace(config, model=replace(config.model, backbone="resnet18")),
            "shared.stem_1.0.weight is",
        ),
    ],
    ids=["classes", "new_layers_lr", "partial_bn", "backbone"],
)
def test_what_cannot_go_on_is_refused(
    toy: ToySet,
    tsn_run: Path,
    tmp_path: Path,
    change: Callable[[Config, ToySet, Path], Config],
    expected: str,
) -> None:
    config = change(toy.tsn(tmp_path / "run"), toy, tmp_path)
    assert expected in refusal(config, resume=str(tsn_run / "checkpoints" / "last.pt"))


def test_other_scenes_cannot_go_on(toy: ToySet, kinet_run: Path, tmp_path: Path) -> None:
    other = Labelling(toy.labelling.source, ("sea", "sand", "wood"))
    message = refusal(toy.kinet(tmp_path / "run"), other, str(kinet_run / "checkpoints" / "last.pt"))
    assert "scenes of teachers.scene are not these" in message


def test_a_model_without_training_state_cannot_go_on(toy: ToySet, tsn_run: Path, tmp_path: Path) -> None:
    message = refusal(toy.tsn(tmp_path / "run"), resume=str(tsn_run / "checkpoints" / "best.pt"))
    assert "resume from last.pt" in message


def test_unreadable_clips_are_skipped_named_and_counted(
    toy: ToySet, tmp_path: Path, sound_only: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    clips = toy.manifest(tmp_path / "train.csv", (empty, "diving"), (sound_only, "hiking"))
    missing = tmp_path / "missing"
    val = toy.manifest(tmp_path / "val.csv", (missing, "hiking"), clips=5)
    for workers in (0, 1):
        config = with_data(toy.tsn(tmp_path / f"run{workers}"), train=str(clips), val=str(val), workers=workers)
        result = train(config)
        assert (result["clips"], result["skipped"]) == (14, 3)
        with (Path(config.out) / "skipped.csv").open(newline="") as file:
            header, *skipped = csv.reader(file)
        assert header == ["path", "cause"]
        assert sorted(skipped) == sorted(
            [[str(empty), "file is empty"], [str(sound_only), "no video stream"], [str(missing), "missing"]]
        )
        told = capfd.readouterr().err.replace("\n", "")
        assert told.count("skipped ") == 3  # each once, though two epochs met it
    assert equal(weights(tmp_path / "run0"), weights(tmp_path / "run1"))
    again = train(config, resume="auto")
    assert again["skipped"] == 3


def test_a_batch_of_unreadable_clips_only_is_passed_over(toy: ToySet, tmp_path: Path) -> None:
    bad = [(tmp_path / f"{number}.mp4", "diving") for number in range(3)]
    clips = toy.manifest(tmp_path / "train.csv", *bad)
    config = with_data(toy.tsn(tmp_path / "run"), train=str(clips), batch_size=1)
    result = train(config)
    assert result["skipped"] == 3
    steps = rows(config.out, epochs=False)
    assert [row["step"] for row in steps] == list(range(1, 31))
    assert sum("loss" not in row for row in steps) == 6


@pytest.mark.parametrize("part", ["train", "val"])
def test_nothing_but_unreadable_clips_ends_the_training(toy: ToySet, tmp_path: Path, part: str) -> None:
    path = toy.manifest(tmp_path / "bad.csv", *((tmp_path / "no.mp4", name) for name in toy.classes), clips=0)
    message = refusal(with_data(toy.tsn(tmp_path / "run"), **{part: str(path)}))
    assert "no clip could be read" in message
    assert "no.mp4: missing" in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def poison(run: Path, name: str, value: float) -> None:
    """Put ``value`` into the first weight of ``last.pt``'s tensor ``name``."""
    path = run / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    tensor = content["model"][name]
    tensor[(0,) * tensor.ndim] = value
    torch.save(content, path)


@pytest.mark.parametrize(("name", "value"), [("classifier.weight", float("nan")), ("shared.stem_1.0.weight", 1e38)])
def test_a_loss_that_is_not_finite_names_step_and_terms(
    toy: ToySet, kinet_run: Path, tmp_path: Path, name: str, value: float
) -> None:
    run = tmp_path / "run"
    shutil.copytree(kinet_run, run)
    poison(run, name, value)
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    with pytest.raises(NonFiniteLoss) as caught:
        train(with_training(toy.kinet(run), epochs=4), labelling=toy.labelling, resume="auto")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{run}: the loss is not finite at step 7 (action nan, ")
    assert all(term in message for term in ("human ", "scene ", "total nan", "--resume auto"))
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before


def test_a_gradient_that_is_not_finite_ends_the_training_before_the_weights_take_it(
    toy: ToySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of an epoch without validation, nothing else would keep such weights from the checkpoint."""
    config = with_data(toy.tsn(tmp_path / "run"), val=None)
    real = engine.joint_loss

    def with_infinite_slope(*arguments: Any) -> dict[str, Tensor]:
        terms = real(*arguments)
        if engine_step() == 6:
            terms["total"] = terms["total"] + (terms["action"] - terms["action"].detach()).clamp(min=0).sqrt()
        return terms

    training: list[engine.Training] = []
    set_up = engine.set_up
    monkeypatch.setattr(engine, "set_up", lambda *args: training.append(set_up(*args)) or training[0])

    def engine_step() -> int:
        return training[0].position.step

    monkeypatch.setattr(engine, "joint_loss", with_infinite_slope)
    with pytest.raises(NonFiniteLoss, match=r"the gradient is not finite at step 6 \(norm (inf|nan)\)"):
        train(config)
    assert load_checkpoint(Path(config.out) / "checkpoints" / "last.pt").results["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in training[0].model.state_dict().values())


@pytest.mark.parametrize("missing", ["human", "scene"])
def test_an_auxiliary_branch_needs_its_teacher(toy: ToySet, tmp_path: Path, missing: str) -> None:
    config = toy.kinet(tmp_path / "run")
    config = replace(config, model=replace(config.model, auxiliaries=[missing], cbi=["res4"]))
    assert refusal(config).startswith(f"teachers.{missing}: the {missing} branch needs one")
    assert not Path(config.out).exists()


class ChangedTeacher(LabelSource):
    """Fails as a teacher does whose file was changed meanwhile."""

    def labels(self, clip: Clip, indices: np.ndarray, frames: Frames) -> FrameLabels:
        raise InputError("teacher.onnx: this teacher's file was changed while it was in use; start again")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_still_one_line(toy: ToySet, tmp_path: Path, workers: int) -> None:
    config = with_data(toy.kinet(tmp_path / "run"), workers=workers)
    message = refusal(config, Labelling(ChangedTeacher(), ("sea", "wood", "sand")))
    assert message == "teacher.onnx: this teacher's file was changed while it was in use; start again"


def test_a_validation_class_that_training_lacks_is_refused(toy: ToySet, tmp_path: Path) -> None:
    val = toy.manifest(tmp_path / "val.csv", (tmp_path / "x.mp4", "hikking"), clips=2)
    message = refusal(with_data(toy.tsn(tmp_path / "run"), val=str(val)))
    assert "line 4: class 'hikking' is unknown; the nearest is 'hiking'" in message


def test_more_segments_than_frames(toy: ToySet, tmp_path: Path) -> None:
    config = toy.tsn(tmp_path / "run")  # clips of 6 frames
    result = train(replace(config, model=replace(config.model, segments=8)))
    assert result["skipped"] == 0
