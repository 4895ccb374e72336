from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from kinet.ablation import study
from kinet.ablation.rows import Row
from kinet.ablation.study import StudyOptions, claimed, run_study
from kinet.ablation.tables import RowResult, compare, paired_gain, plot, to_markdown
from kinet.cli import main
from kinet.config import Config
from kinet.errors import InputError
from kinet.evaluation.protocol import Views
from kinet.training.engine import NonFiniteLoss
from kinet.training.engine import train as real_train

ToySet = Any  # tests/conftest.py's, which tests cannot import
OPTIONS = StudyOptions(seeds=2, views=Views(3, 1), only=["multitask"])


def small(toy: ToySet, out: Path) -> Config:
    config: Config = toy.kinet(out)
    return replace(config, training=replace(config.training, epochs=1))


@pytest.fixture(scope="module")
def finished(toy: ToySet, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A study of TSN and multitask learning, two seeds each."""
    config = small(toy, tmp_path_factory.mktemp("study"))
    run_study(config, OPTIONS, toy.labelling)
    return config


def test_a_study_leaves_runs_tables_and_a_picture(finished: Config) -> None:
    out = Path(finished.out)
    results = json.loads((out / "results.json").read_text())
    assert list(results["rows"]) == ["tsn", "multitask"]
    row = results["rows"]["multitask"]
    assert row["seeds"] == [0, 1]
    tsn = [json.loads((out / f"tsn/seed{k}/ablation_val_3x1.json").read_text())["top1"] for k in (0, 1)]
    assert row["gain"] == pytest.approx(np.mean(row["top1"]) - np.mean(tsn))
    assert row["parameters"] > results["rows"]["tsn"]["parameters"]
    assert "| Multitask | baseline + human + scene |" in (out / "tables.md").read_text()
    assert (out / "gains.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_trains_nothing_again(finished: Config, toy: ToySet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (Path(finished.out) / "results.json").read_text()
    monkeypatch.setattr(study, "train", lambda *_, **__: pytest.fail("trained again"))
    run_study(finished, OPTIONS, toy.labelling)
    assert (Path(finished.out) / "results.json").read_text() == before


def test_another_config_in_the_same_folder_is_refused(finished: Config, toy: ToySet) -> None:
    other = replace(finished, training=replace(finished.training, lr=0.5))
    with pytest.raises(InputError, match=r"training\.lr; choose another --out"):
        run_study(other, OPTIONS, toy.labelling)


def test_a_training_that_diverges_is_noted_and_the_study_goes_on(
    toy: ToySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(config: Config, **options: Any) -> dict[str, Any]:
        if config.model.auxiliaries:
            raise NonFiniteLoss("the loss is not finite at step 3")
        return real_train(config, **options)

    monkeypatch.setattr(study, "train", diverge)
    results = run_study(small(toy, tmp_path), replace(OPTIONS, seeds=1), toy.labelling)
    assert results["rows"]["multitask"]["failed"] == 1
    assert results["rows"]["multitask"]["gain"] is None
    assert results["rows"]["tsn"]["top1_mean"] is not None
    assert "(1 failed)" in (tmp_path / "tables.md").read_text()


def test_a_training_that_another_process_works_on_is_left_to_it(
    toy: ToySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(config: Config, **options: Any) -> dict[str, Any]:
        trained.append(Path(config.out).relative_to(tmp_path).as_posix())
        return real_train(config, **options)

    monkeypatch.setattr(study, "train", train)
    with claimed(tmp_path / "tsn/seed0") as mine:
        assert mine
        run_study(small(toy, tmp_path), replace(OPTIONS, seeds=1), toy.labelling)
    assert trained == ["multitask/seed0"]


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    row, baseline = rng.normal(72, 2, 6), rng.normal(70, 2, 6)
    gain = paired_gain(dict(enumerate(row)), dict(enumerate(baseline)))
    expected = stats.ttest_rel(row, baseline).confidence_interval(0.95)
    assert gain is not None
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))
    assert gain.mean == pytest.approx(np.mean(row - baseline))


def test_gains_pair_the_same_seeds_alone() -> None:
    gain = paired_gain({0: 70.0, 1: 75.0, 5: 10.0}, {0: 69.0, 1: 72.0, 2: 99.0})
    assert gain is not None
    assert (gain.mean, gain.pairs) == (2.0, 2)
    single = paired_gain({0: 70.0}, {0: 69.0})
    assert single is not None
    assert (single.low, single.high) == (None, None)
    assert paired_gain({0: 70.0}, {1: 69.0}) is None


def test_without_results_there_are_tables_without_rows(tmp_path: Path) -> None:
    assert "Table 1" in to_markdown([], [1], "val", "3x1")
    plot([], tmp_path / "gains.png")
    assert not list(tmp_path.iterdir())


def test_a_failed_baseline_leaves_rows_without_a_gain() -> None:
    baseline = RowResult(Row("tsn", "Baseline", "TSN", {}, (1,)), [{"seed": 0, "failed": "not finite"}])
    other = RowResult(Row("kinet", "KINet", "as configured", {}, (1,)), [{"seed": 0, "top1": 70.0}])
    assert [entry.gain for entry in compare([baseline, other])] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "nothing"], "no such row"),
        (["--seeds", "0"], "give 1 or more"),
        (["--split", "test"], "data.test"),
        (["--table", "7"], "tables are 1, 2, 3 and 4"),
        (["--weights", "resnet50"], "BACKBONE=FILE"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    finished: Config, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    config = Path(finished.out) / "multitask/seed0/config.yaml"
    changes = ["--model.cbi", "[res4, res5]", "--model.akg", "dot", "--out", finished.out]
    assert main(["ablate", str(config), *arguments, *changes]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
