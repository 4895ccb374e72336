"""``kinet demo`` from end to end, on a few clips and for one epoch each."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinet import demo
from kinet.cli import main
from kinet.data.generated import ACTION_NAMES, ACTIONS
from kinet.data.manifest import read_manifest
from kinet.errors import InputError
from kinet.evaluation.scores import read_scores
from kinet.training.checkpoint import load_checkpoint

CLIPS = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a short demo and what it returned."""
    out = tmp_path_factory.mktemp("demo") / "out"
    short = {
        name: replace(config, training=replace(config.training, epochs=1, milestones=[]))
        for name, config in demo.RUNS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "RUNS", short)
        patch.setattr(demo, "TEACHER_IMAGES", 64)
        patch.setattr(demo, "HELD_OUT_IMAGES", 12)
        patch.setattr(demo, "TEACHER_EPOCHS", {"human": 1, "scene": 1})
        return out, demo.run_demo(out, seed=3, clips_per_action=CLIPS)


def test_the_result(shown: tuple[Path, dict[str, Any]]) -> None:
    out, result = shown
    assert result == json.loads((out / "result.json").read_text())
    assert result["seed"] == 3
    assert result["report"] == str(out / "report.html")
    for name in ("tsn_top1", "tsn_mean_class", "kinet_top1", "kinet_mean_class"):
        assert 0 <= result[name] <= 100
    for name in ("teacher_mean_iou", "teacher_scene_top1"):
        assert 0 < result[name] <= 100
    assert result["seconds"] > 0


def test_the_clips(shown: tuple[Path, dict[str, Any]]) -> None:
    out, _ = shown
    for split, count in CLIPS.items():
        clips = read_manifest(out / "clips" / f"{split}.csv")
        assert clips.classes == ACTION_NAMES
        assert len(clips) == len(ACTION_NAMES) * count
        assert all(clip.path.stat().st_size > 0 for clip in clips)


def test_both_networks_were_trained_and_tested_alike(shown: tuple[Path, dict[str, Any]]) -> None:
    out, result = shown
    logs = {}
    for name in ("tsn", "kinet"):
        run = out / name
        checkpoint = load_checkpoint(run / "checkpoints" / "last.pt")
        assert checkpoint.results["epoch"] == 1
        assert checkpoint.config.training.seed == 3
        logs[name] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert all(math.isfinite(value) for row in logs[name] for value in row.values())
        scores = read_scores(run / "test" / f"test_{demo.VIEWS}" / "scores.npz")
        assert len(scores.names) == len(ACTION_NAMES) * CLIPS["test"]
        right = (scores.scores.argmax(axis=1) == scores.labels).mean()
        assert result[f"{name}_top1"] == pytest.approx(100 * right)
    assert logs["tsn"][-1]["step"] == logs["kinet"][-1]["step"]
    assert {"loss_human", "loss_scene", "edge_entropy"} <= logs["kinet"][-1].keys()
    assert not {"loss_human", "loss_scene", "edge_entropy"} & logs["tsn"][-1].keys()
    made = {path.name.split("-")[0] for path in (out / "labels").iterdir()}
    assert made == {"human", "scene"}
    assert len(list((out / "labels").rglob("*.npz"))) == 2 * len(ACTION_NAMES) * CLIPS["train"]


def test_the_report(shown: tuple[Path, dict[str, Any]]) -> None:
    out, result = shown
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in ("TSN", "KINet"):
        assert name in page
    for action in ACTIONS:
        assert action.name in page
        assert action.scene in page
    assert f"mean IoU {result['teacher_mean_iou']}%" in page
    assert "<svg" in page
    assert "data:image/" in page  # the pictures are inside
    assert "<script" not in page
    assert 'src="http' not in page


def test_a_folder_that_holds_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match="not empty; remove it, or choose another folder with --out"):
            demo.run_demo(out)
        assert main(["demo", "--out", str(out)]) == 2
        assert capsys.readouterr().err.startswith(f"kinet: {out}: not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed"):  # past the folder's check
        demo.run_demo(tmp_path, seed=-1)
