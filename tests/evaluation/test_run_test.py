"""``kinet test``: the numbers are those of the checkpoint on the clips, and the files hold them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinet.data.manifest import read_manifest
from kinet.errors import InputError
from kinet.evaluation import run_test as module  # not its names: pytest would take some for tests
from kinet.evaluation.protocol import parse_views
from kinet.evaluation.scores import read_scores
from kinet.training.checkpoint import load_checkpoint, load_model

ToySet = Any  # tests/conftest.py's, which tests cannot import


def options(views: str, out: Path, **more: Any) -> module.TestOptions:
    return module.TestOptions(parse_views(views), out=out, device="cpu", **more)


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("views", ["1x1", "3x1", "5x2", "4x10"])
def test_files_agree_with_the_result(toy: ToySet, kinet_run: Path, tmp_path: Path, views: str) -> None:
    out = tmp_path / "results"
    result, metrics = module.run_test(kinet_run, options(views, out))
    assert {path.name for path in out.iterdir()} == {"result.json", "scores.npz", "per_class.csv", "confusion.csv"}
    assert result == json.loads((out / "result.json").read_text())
    assert (result["videos"], result["skipped"], result["views"]) == (6, 0, views)

    scores = read_scores(out / "scores.npz")
    clips = list(read_manifest(toy.val))
    assert scores.views == views
    assert list(scores.names) == [clip.name for clip in clips]
    assert scores.labels.tolist() == [clip.label for clip in clips]
    right = scores.scores.argmax(axis=1) == scores.labels
    assert result["top1"] == pytest.approx(100 * right.mean())
    assert (metrics.top1, metrics.clips) == (result["top1"], 6)

    header, *rows = table(out / "per_class.csv")
    assert header == ["class", "clips", "correct", "confused_with", "confused"]
    assert [row[0] for row in rows] == sorted(toy.classes)
    assert result["mean_class"] == pytest.approx(np.mean([float(row[2]) for row in rows]))
    header, *rows = table(out / "confusion.csv")
    assert header == ["true class", *sorted(toy.classes)]
    counts = np.array([[int(count) for count in row[1:]] for row in rows])
    assert counts.sum(axis=1).tolist() == [2, 2, 2]
    assert counts.trace() == right.sum()


def test_scores_are_those_of_the_whole_network_on_every_view(toy: ToySet, kinet_run: Path, tmp_path: Path) -> None:
    """Heads dropped, images shared by windows: still the forward pass of each window and crop, averaged."""
    out = tmp_path / "results"
    module.run_test(kinet_run, options("4x2", out))
    found = read_scores(out / "scores.npz").scores
    model = load_model(load_checkpoint(kinet_run), str(kinet_run)).eval()
    for index, clip in enumerate(read_manifest(toy.val)):
        if index % 3:
            continue
        frames = [np.asarray(Image.open(path)) for path in sorted(clip.path.glob("*.png"))]
        centres = np.stack([frames[number] for number in (0, 2, 3, 5)])[:, :, 8:72]  # of six frames, 80 pixels wide
        views = torch.from_numpy(np.stack([centres, centres[:, :, ::-1]])).permute(0, 1, 4, 2, 3)
        windows = torch.cat([views[:, :3], views[:, 1:]])
        with torch.inference_mode():
            expected = model(windows).action.mean(dim=0)
        np.testing.assert_allclose(found[index], expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["tsn", "kinet"])
def test_the_validation_accuracy_is_found_again(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(f"{kind}_run")
    for name in ("best", "last"):
        checkpoint = run / "checkpoints" / f"{name}.pt"
        result, _ = module.run_test(checkpoint, options("3x1", tmp_path / name))
        assert result["top1"] == pytest.approx(load_checkpoint(checkpoint).results["val_top1"])
        assert result["checkpoint"] == str(checkpoint)


def test_workers_do_not_change_the_scores(kinet_run: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        module.run_test(kinet_run, options("3x2", tmp_path / str(workers), workers=workers))
    first, second = (read_scores(tmp_path / workers / "scores.npz") for workers in ("0", "2"))
    assert first.names == second.names
    np.testing.assert_array_equal(first.scores, second.scores)


def test_results_go_into_the_run(toy: ToySet, tsn_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tsn_run, run)
    for source in (run, run / "checkpoints" / "last.pt"):
        result, _ = module.run_test(source, module.TestOptions(parse_views("2x1"), device="cpu"))
        assert result["scores"] == str(run / "test" / "val_2x1" / "scores.npz")
        assert Path(result["scores"]).is_file()
        assert result["manifest"] == str(toy.val)
    alone = shutil.copy(run / "checkpoints" / "best.pt", tmp_path / "model.pt")
    result, _ = module.run_test(Path(alone), module.TestOptions(parse_views("2x1"), device="cpu"))
    assert result["scores"] == str(tmp_path / "test" / "val_2x1" / "scores.npz")


def test_unreadable_clips_are_counted_and_named(toy: ToySet, kinet_run: Path, tmp_path: Path, sound_only: Path) -> None:
    out, missing = tmp_path / "results", tmp_path / "missing.mp4"
    clips = toy.manifest(tmp_path / "clips.csv", (sound_only, "hiking"), (missing, "diving"), clips=5)
    result, metrics = module.run_test(kinet_run, options("3x1", out, manifest=clips))
    assert (result["videos"], result["skipped"], metrics.clips) == (5, 2, 5)
    assert table(out / "skipped.csv")[1:] == [[str(sound_only), "no video stream"], [str(missing), "missing"]]
    assert len(read_scores(out / "scores.npz").names) == 5

    module.run_test(kinet_run, options("3x1", out))
    assert not (out / "skipped.csv").exists()  # the list of an earlier test would say that this one skipped clips


def test_a_manifest_with_some_of_the_classes(toy: ToySet, kinet_run: Path, tmp_path: Path) -> None:
    clips = toy.manifest(tmp_path / "clips.csv", clips=4)  # of diving only, which sorts first
    result, metrics = module.run_test(kinet_run, options("3x1", tmp_path / "results", manifest=clips))
    assert [one.clips for one in metrics.per_class] == [4, 0, 0]
    assert result["mean_class"] == result["top1"]


def refusal(source: Path, chosen: module.TestOptions) -> str:
    with pytest.raises(InputError) as caught:
        module.run_test(source, chosen)
    assert "\n" not in str(caught.value)
    assert chosen.out is not None
    assert not chosen.out.exists()
    return str(caught.value)


def test_a_foreign_label_is_refused(toy: ToySet, tsn_run: Path, tmp_path: Path) -> None:
    clips = toy.manifest(tmp_path / "clips.csv", (tmp_path / "x.mp4", "sunbathng"), clips=2)
    message = refusal(tsn_run, options("3x1", tmp_path / "results", manifest=clips))
    assert "line 4: class 'sunbathng' is unknown; the nearest is 'sunbathing'" in message


def test_no_readable_clip_is_refused(toy: ToySet, tsn_run: Path, tmp_path: Path, sound_only: Path) -> None:
    clips = toy.manifest(tmp_path / "clips.csv", (sound_only, "hiking"), clips=0)
    message = refusal(tsn_run, options("3x1", tmp_path / "results", manifest=clips))
    assert f"no clip could be read of 1; the first, {sound_only}: no video stream" in message


def test_no_manifest_at_all_is_refused(tsn_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    content = torch.load(tsn_run / "checkpoints" / "best.pt", weights_only=True)
    content["config"]["data"]["val"] = None
    torch.save(content, path)
    assert "name their manifest with --manifest" in refusal(path, options("3x1", tmp_path / "results"))


def test_weights_that_are_not_numbers_are_refused(tsn_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    content = torch.load(tsn_run / "checkpoints" / "best.pt", weights_only=True)
    content["model"]["classifier.weight"][1, 2] = float("nan")
    torch.save(content, path)
    assert "the scores of clip val/diving/0 are not finite" in refusal(path, options("3x1", tmp_path / "results"))
