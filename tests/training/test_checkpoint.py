"""Checkpoints come back as they were written, and whatever else is in the file is refused in one line."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kinet.config import Config, ModelConfig
from kinet.errors import InputError
from kinet.models.kinet import build_kinet
from kinet.models.zoo import BACKBONES
from kinet.training.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint

MODEL = ModelConfig(backbone="resnet10_narrow", weights="none", cbi=["res4"])
CLASSES, SCENES = ["jump", "run"], ["beach", "street", "wood"]


def make_checkpoint(**changes: Any) -> Checkpoint:
    torch.manual_seed(0)
    model = build_kinet(MODEL, len(CLASSES), len(SCENES))
    config = Config(model=replace(MODEL, weights="imagenet"))  # as trained; the file must do without those weights
    checkpoint = Checkpoint(config, CLASSES, SCENES, model.state_dict(), results={"epoch": 3, "val_top1": 61.5})
    return replace(checkpoint, **changes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    save_checkpoint(path, make_checkpoint())
    return path


def refusal(path: Path) -> str:
    """The one line that loading ends with; it names the path."""
    with pytest.raises(InputError) as caught:
        load_model(load_checkpoint(path), str(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = {
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "position": {"epoch": 3, "seconds": 1.5},
        "random": torch.get_rng_state(),
    }
    checkpoint = make_checkpoint(training=state)
    path = tmp_path / "new" / "folders" / "last.pt"
    save_checkpoint(path, checkpoint)
    loaded = load_checkpoint(path)
    assert asdict(loaded.config) == asdict(checkpoint.config)
    assert isinstance(loaded.config.data.frame_size, tuple)
    assert (loaded.classes, loaded.scene_names, loaded.results) == (CLASSES, SCENES, {"epoch": 3, "val_top1": 61.5})
    assert loaded.model.keys() == checkpoint.model.keys()
    assert all(loaded.model[name].equal(tensor) for name, tensor in checkpoint.model.items())
    assert loaded.training is not None
    assert loaded.training["position"] == state["position"]
    assert loaded.training["random"].equal(state["random"])
    momentum = loaded.training["optimizer"]["state"][0]["momentum_buffer"]
    assert momentum.equal(state["optimizer"]["state"][0]["momentum_buffer"])  # type: ignore[index]


def test_the_model_gives_the_same_scores_without_the_pretrained_file(saved: Path) -> None:
    torch.manual_seed(0)
    original = build_kinet(MODEL, len(CLASSES), len(SCENES)).eval()
    loaded = load_model(load_checkpoint(saved), str(saved)).eval()
    clips = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected, found = original(clips), loaded(clips)
    assert found.action.equal(expected.action)
    assert found.scene.equal(expected.scene)
    assert found.human.equal(expected.human)


def test_best_of_a_run_is_taken_else_last(saved: Path) -> None:
    run = saved.parent.parent
    save_checkpoint(saved.with_name("last.pt"), make_checkpoint(results={"epoch": 9}))
    assert load_checkpoint(run).results["epoch"] == 3
    saved.unlink()
    assert load_checkpoint(run).results["epoch"] == 9
    saved.with_name("last.pt").unlink()
    assert "no checkpoints/best.pt or last.pt" in refusal(run)


@pytest.mark.parametrize("place", ["torch.save", "os.fsync"])
def test_a_failing_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    before = saved.read_bytes()

    def half(content: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    def fail(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(place, half if place == "torch.save" else fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(saved, make_checkpoint(results={"epoch": 4}))
    assert saved.read_bytes() == before
    monkeypatch.undo()
    save_checkpoint(saved, make_checkpoint(results={"epoch": 4}))
    assert load_checkpoint(saved).results == {"epoch": 4}
    assert [path.name for path in saved.parent.iterdir()] == ["best.pt"]


def test_any_flipped_bit_is_found(saved: Path) -> None:
    """torch reads a tensor whose bytes were changed as if nothing had happened; the checksum does not."""
    whole = saved.read_bytes()
    places = random.Random(0).sample(range(len(whole) - 80), 25)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        saved.write_bytes(damaged)
        assert ": damaged, its SHA-256 is not the one at its end" in refusal(saved)


def test_the_checksum_is_of_what_stands_before_it(saved: Path) -> None:
    content, line = saved.read_bytes()[:-78], saved.read_bytes()[-78:]
    assert line.decode() == f"kinet sha256 {hashlib.sha256(content).hexdigest()}\n"
    assert torch.load(saved, weights_only=True).keys() >= {"model", "config"}  # other readers pass over it
    saved.write_bytes(content)
    assert load_checkpoint(saved).classes == CLASSES  # as an earlier version wrote it


def test_the_one_before_is_kept_where_it_is_asked_for(saved: Path) -> None:
    before, previous = saved.read_bytes(), saved.with_name("previous.pt")
    save_checkpoint(saved, make_checkpoint(results={"epoch": 4}), previous=previous)
    assert previous.read_bytes() == before
    assert load_checkpoint(saved).results == {"epoch": 4}
    save_checkpoint(saved, make_checkpoint(results={"epoch": 5}))
    assert previous.read_bytes() == before


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def flip_bytes(path: Path) -> None:
    """Damage the zip's directory, so that a reader cannot miss it."""
    data = bytearray(path.read_bytes())
    data[-200:] = bytes(200)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda path: path.unlink(), "no such checkpoint"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: cut(path, 0.5), "cannot be read"),
        (lambda path: cut(path, 0.999), "cannot be read"),
        (flip_bytes, "cannot be read"),
        (lambda path: path.write_bytes(random.Random(0).randbytes(5000)), "refused"),
        (lambda path: path.write_text("model: resnet50\n"), "refused"),
        (lambda path: torch.save(BACKBONES["resnet10_narrow"]().state_dict(), path), "not a kinet checkpoint"),
        (lambda path: torch.save([1, 2], path), "not a kinet checkpoint"),
        (lambda path: torch.save(torch.ones(3), path), "not a kinet checkpoint"),
        (lambda path: torch.save({"kinet_format": 2}, path), "format 2"),
        (lambda path: torch.save({"kinet_format": 1, "config": {}}, path), "incomplete"),
    ],
    ids=[
        "missing",
        "empty",
        "half",
        "end cut off",
        "damaged",
        "random",
        "text",
        "weights of a backbone",
        "a list",
        "a tensor",
        "of a later version",
        "incomplete",
    ],
)
def test_what_is_no_checkpoint_is_refused(saved: Path, spoil: Callable[[Path], object], expected: str) -> None:
    spoil(saved)
    assert expected in refusal(saved)


class Malicious:
    """Makes a folder when it is unpickled with code execution."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, form: str) -> None:
    path, trap = tmp_path / "best.pt", tmp_path / "trap"
    content = {"kinet_format": 1, "model": Malicious(trap)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert "refused" in refusal(path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(content))  # the trap does work
    assert trap.exists()


def test_weights_of_another_architecture_name_the_first_tensor(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    tsn = replace(MODEL, auxiliaries=[], cbi=[], akg="none")
    save_checkpoint(other, make_checkpoint(config=Config(model=tsn)))
    assert "trunks.scene" in refusal(other)

    save_checkpoint(other, make_checkpoint(config=Config(model=replace(MODEL, backbone="resnet18"))))
    message = refusal(other)
    assert "shared.stem_1.0.weight is (" in message
    assert "another architecture or other classes" in message

    save_checkpoint(other, make_checkpoint(classes=[*CLASSES, "swim"]))
    width = make_checkpoint().model["classifier.weight"].shape[1]
    assert f"classifier.weight is (2, {width}) in the file, (3, {width}) in the network" in refusal(other)


def test_copies_elsewhere_load(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copy(saved, tmp_path / "model-0123abcd.pt")  # a name that looks like a hash says nothing here
    assert load_checkpoint(Path(copy)).classes == CLASSES
