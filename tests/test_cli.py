"""The command line: results on stdout, and for every wrong input one line, exit code 2 and no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import kinet
from kinet.cli import main
from kinet.config import Config
from kinet.data.manifest import read_manifest
from kinet.evaluation.scores import read_scores
from kinet.training.checkpoint import load_checkpoint, save_checkpoint
from kinet.training.run_folder import to_plain

ToySet = Any  # tests/conftest.py's, which tests cannot import


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """What a successful command printed: one line of JSON."""
        assert self.code == 0, self.err
        (line,) = self.out.splitlines()
        content: dict[str, Any] = json.loads(line)
        return content


Command = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """Calls ``kinet`` in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(run: Command) -> Callable[..., str]:
    """Calls ``kinet`` with something wrong, and gives the line that says what."""

    def call(*arguments: object) -> str:
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        (line,) = outcome.err.splitlines()
        assert line.startswith("kinet: ")
        return line

    return call


def write_config(config: Config, path: Path) -> Path:
    path.write_text(yaml.safe_dump(to_plain(asdict(config))))
    return path


@pytest.fixture
def config_file(toy: ToySet, tmp_path: Path) -> Path:
    """A config of TSN on the toy clips, for a run in ``tmp_path/run``."""
    return write_config(toy.tsn(tmp_path / "run"), tmp_path / "config.yaml")


# What works


def test_train_then_resume_then_test(toy: ToySet, run: Command, config_file: Path, tmp_path: Path) -> None:
    trained = run("train", config_file, "--training.epochs", "1", "--out", tmp_path / "mine").result
    assert (trained["epochs"], trained["run"]) == (1, str(tmp_path / "mine"))
    assert trained == json.loads((tmp_path / "mine" / "result.json").read_text())
    more = run("train", config_file, "--resume", "auto", "--out", tmp_path / "mine", "--training.epochs=3").result
    assert more["epochs"] == 3

    tested = run("test", tmp_path / "mine", "--views", "3x2", "--workers", "0", "--device", "cpu")
    assert tested.result["views"] == "3x2"
    assert {"top1", "top5", "mean_class", "videos", "skipped"} <= tested.result.keys()
    assert all(name in tested.err for name in toy.classes)  # the table
    assert read_scores(Path(tested.result["scores"])).views == "3x2"


def test_stdout_is_the_result_and_stderr_the_progress(
    run: Command, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinet.training.engine.LONG_WAIT", 1.0)  # a busy machine may make steps wait for clips
    outcome = run("train", config_file)
    assert outcome.result["epochs"] == 2
    assert [line.split("  ")[0] for line in outcome.err.splitlines()] == ["epoch 1/2", "epoch 2/2"]


def test_more_segments_than_frames_repeat_frames(run: Command, config_file: Path) -> None:
    trained = run("train", config_file, "--model.segments", "9", "--training.epochs", "1").result  # clips of 6
    assert trained["skipped"] == 0
    assert run("test", trained["run"], "--views", "20x1").result["videos"] == 6


def test_a_clip_without_video_is_skipped_among_good_ones(
    toy: ToySet, run: Command, config_file: Path, tmp_path: Path, sound_only: Path
) -> None:
    clips = toy.manifest(tmp_path / "clips.csv", (sound_only, "hiking"), clips=6)
    outcome = run("train", config_file, "--data.train", clips, "--data.val", "null", "--training.epochs", "1")
    assert outcome.result["skipped"] == 1
    assert f"skipped {sound_only}: no video stream" in outcome.err.replace("\n", "")
    tested = run("test", outcome.result["run"], "--manifest", clips, "--views", "3x1").result
    assert (tested["videos"], tested["skipped"]) == (6, 1)


def test_manifest_of_videos_frames_and_a_list(run: Command, tmp_path: Path, toy: ToySet) -> None:
    for name in ("jump/b.mp4", "jump/a.avi", "run/c.mkv", "run/notes.txt"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    out = tmp_path / "videos" / "all.csv"
    outcome = run("manifest", "folder", tmp_path / "videos", out)
    assert outcome.result == {"manifest": str(out), "root": str(tmp_path / "videos"), "clips": 3, "classes": 2}
    assert [clip.name for clip in read_manifest(out)] == ["jump/a.avi", "jump/b.mp4", "run/c.mkv"]
    assert outcome.err == ""

    keep = tmp_path / "keep.csv"
    keep.write_text("class,video_name\nrun,c\njump,b.mp4\n")
    elsewhere = tmp_path / "new" / "kept.csv"
    outcome = run("manifest", "folder", tmp_path / "videos", elsewhere, "--list", keep)
    assert outcome.result["clips"] == 2
    assert [clip.name for clip in read_manifest(elsewhere)] == ["run/c.mkv", "jump/b.mp4"]
    assert "data.root" in outcome.err

    outcome = run("manifest", "frames", toy.folder / "train", tmp_path / "frames.csv")
    assert (outcome.result["clips"], outcome.result["classes"]) == (12, 3)
    root = Path(outcome.result["root"])
    assert [clip.path for clip in read_manifest(tmp_path / "frames.csv", root=root)] == [
        clip.path for clip in read_manifest(toy.train)
    ]


def test_manifests_of_official_lists(run: Command, tmp_path: Path) -> None:
    names = ["Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g02_c01.avi", "Biking/v_Biking_g01_c01.avi"]
    for name in names[:2]:
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_text(name)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\r\n2 Biking\r\n")
    (lists / "trainlist03.txt").write_text(f"{names[0]} 1\r\n{names[2]} 2\r\n")
    (lists / "testlist03.txt").write_text(f"{names[1]}\r\n")
    out = tmp_path / "ucf.csv"
    outcome = run("manifest", "ucf101", tmp_path / "videos", out, "--split", "3", "--lists", lists)
    result = outcome.result
    assert (result["clips"], result["test_clips"], result["missing"], result["classes"]) == (1, 1, 1, 1)
    assert "1 listed clips are missing: see" in outcome.err
    assert Path(result["missing_by_class"]).read_text() == "class,listed,missing\nBiking,1,1\n"

    train, test = result["manifest"], result["test"]
    outcome = run("manifest", "check", train, test, "--root", tmp_path / "videos")
    assert outcome.err == "no findings\n"
    assert outcome.result == {
        "clips": 2,
        "same_path": 0,
        "same_content": 0,
        "same_source": 0,
        "missing_class": 0,
        "unreadable": 0,
        "group": "ucf101",
        "report": str(tmp_path / "ucf_check.csv"),
    }
    report = tmp_path / "report.csv"
    outcome = run("manifest", "check", train, test, "--group", "v_([A-Z][a-z]+)_", "--no-files", "--out", report)
    assert outcome.result["same_source"] == 1
    assert outcome.err.startswith("same source: 1; the first: Archery (")
    assert len(report.read_text().splitlines()) == 3


def test_clips_of_several_labels_are_indexed_but_not_trained_on(
    run: Command, refused: Callable[..., str], tmp_path: Path, config_file: Path, toy: ToySet
) -> None:
    listed = tmp_path / "mine.csv"
    listed.write_text("clip,actions\ndiving/0,diving;hiking\nhiking/0,hiking\ngone,hiking\n")
    out = tmp_path / "several.csv"
    columns = ["--path-column", "clip", "--label-column", "actions", "--separator", ";"]
    result = run("manifest", "csv", toy.folder / "train", out, "--list", listed, *columns).result
    assert (result["clips"], result["classes"], result["missing"]) == (2, 2, 1)
    assert out.read_text() == "path,labels\ndiving/0,diving|hiking\nhiking/0,hiking\n"
    assert "several labels" in refused("train", config_file, "--data.train", out, "--data.root", toy.folder / "train")
    assert run("manifest", "check", out, "--root", toy.folder / "train").result["unreadable"] == 0


def test_scan_of_good_and_bad_clips(run: Command, toy: ToySet, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    manifest = toy.manifest(tmp_path / "clips.csv", (tmp_path / "broken.mp4", "diving"), clips=2)
    outcome = run("scan", manifest, "--workers", "1", "--good", tmp_path / "good" / "clips.csv")
    assert (outcome.result["good"], outcome.result["bad"], outcome.result["problems"]) == (2, 1, {"unreadable": 1})
    assert outcome.result == json.loads((tmp_path / "clips_scan" / "summary.json").read_text())
    assert "unreadable" in outcome.err  # the table
    assert f"relative to {tmp_path}" in outcome.err
    assert len(read_manifest(tmp_path / "good" / "clips.csv")) == 2


def test_info_as_json_and_as_tables(run: Command, config_file: Path) -> None:
    info = run("info", config_file, "--classes", "7", "--json", "--model.backbone", "mobilenet_v2").result
    assert info["input_size"] == 64
    (classifier,) = [part for part in info["parts"] if part["part"] == "action classifier"]
    assert classifier["parameters"] == 7 * 1281
    tables = run("info", config_file)
    assert tables.code == 0
    assert "GFLOPs" in tables.out
    assert tables.err == ""


@pytest.mark.parametrize("command", [[], ["train"], ["test"], ["manifest"], ["scan"], ["info"], ["demo"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert out.startswith(" ".join(["usage: kinet", *command]))
    assert err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"kinet {kinet.__version__}\n"


# Wrong use


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "required: COMMAND"),
        (["tran"], "invalid choice: 'tran'"),
        (["--verbose"], "required: COMMAND"),
        (["train"], "required: CONFIG (see kinet train --help)"),
        (["test"], "required: RUN_OR_CHECKPOINT"),
        (["manifest", "folder", "x"], "required: OUT.csv"),
        (["manifest", "ucf", "x", "y.csv"], "invalid choice: 'ucf'"),
        (["manifest"], "required: SOURCE (see kinet manifest --help)"),
        (["manifest", "kinetics", "x", "y.csv"], "required: --lists (see kinet manifest kinetics --help)"),
        (["manifest", "ucf101", "x", "y.csv", "--split", "4"], "invalid choice: 4"),
        (["manifest", "check", "x.csv", "--group", "(a"], "--group (a: not a regular expression"),
        (["manifest", "check", "x.csv"], "x.csv: cannot be read"),
        (["test", "x", "--verbose"], "unknown argument '--verbose'"),
        (["test", "x", "y"], "unknown argument 'y'"),
        (["test", "x", "--view", "3x1"], "unknown argument '--view'"),
        (["demo", "--seed", "one"], "invalid int value: 'one'"),
        (["test", "x", "--workers"], "expected one argument"),
        (["test", "x", "--precision", "16"], "invalid choice: '16'"),
        (["scan", "x.csv", "--workers", "0"], "--workers 0: give a number above 0"),
        (["scan", "x.csv", "--strict"], "--strict: says which clips --good keeps"),
        (["info", "x.yaml", "--classes", "0"], "--classes 0: give the number of actions"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(refused: Callable[..., str], arguments: list[str], expected: str) -> None:
    assert expected in refused(*arguments)


@pytest.mark.parametrize("views", ["25", "0x1", "3x3", "3x", "axb", "-3x1", "3x1x1", "9999x1", ""])
def test_wrong_views(refused: Callable[..., str], tsn_run: Path, views: str) -> None:
    line = refused("test", tsn_run, f"--views={views}")
    assert line.startswith(f"kinet: views {views!r}: ")


# Wrong configs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--modle.backbone", "resnet18"], "unknown key 'modle'; nearest is 'model'"),
        (["--data.batchsize", "4"], "unknown key 'batchsize'; nearest is 'batch_size'"),
        (["--training.lr"], "--training.lr has no value"),
        (["stray"], "expected --key value, got 'stray'"),
        (["--training.lr", "fast"], "training.lr"),
        (["--training.lr", "null"], "lr has no value"),
        (["--out", "null"], "out has no value"),
        (["--model.backbone", "resnet5"], "nearest is 'resnet50'"),
        (["--model.cbi", "[res9]"], "model.cbi: needs an auxiliary branch"),
        (["--model.auxiliaries", "[scene]"], "teachers.scene: the scene branch needs one"),
        (["--model.weights", "nothing.pth"], "no file 'nothing.pth'"),
        (["--model.segments", "0"], "model.segments: 0 is not a positive number"),
        (["--data.train", "null"], "data.train: name the manifest"),
        (["--data.train", "nothing.csv"], "nothing.csv: cannot be read"),
        (["--data.batch_size", "0"], "data.batch_size: 0 is out of range; give 1 or more"),
        (["--data.workers=-1"], "data.workers: -1 is out of range; give 0 or more"),
        (["--data.scales", "[]"], "data.scales: is empty"),
        (["--data.scales", "[1, 0]"], "data.scales: 0.0 is out of range"),
        (["--data.frame_size", "[0, 80]"], "data.frame_size: 0 is out of range"),
        (["--data.input_size", "0"], "data.input_size: 0 is out of range"),
        (["--training.epochs", "0"], "training.epochs: 0 is out of range"),
        (["--training.lr=-0.1"], "training.lr: -0.1 is out of range"),
        (["--training.lr", ".nan"], "training.lr: nan is out of range"),
        (["--training.seed=-1"], "training.seed: -1 is out of range"),
        (["--training.log_every", "0"], "training.log_every: 0 is out of range"),
        (["--training.validate_every", "0"], "training.validate_every: 0 is out of range"),
        (["--loss.temperature", "0"], "loss.temperature: 0.0 is out of range"),
        (["--training.freeze_until", "res9"], "training.freeze_until: no stage or block 'res9'"),
        (["--resume", "nothing.pt"], "nothing.pt: no such checkpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_settings(
    refused: Callable[..., str], config_file: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    assert expected in refused("train", config_file, *arguments)
    assert not (tmp_path / "run").exists()


def test_wrong_config_files(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "nothing.yaml: no such config" in refused("train", tmp_path / "nothing.yaml")
    assert "no such config" in refused("train", tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_text("model: {backbon: resnet50}\n")
    assert "model: unknown key 'backbon'; nearest is 'backbone'" in refused("train", bad)
    assert "unknown key 'backbon'" in refused("info", bad)
    bad.write_text("model:\n# backbone: resnet50\n")
    assert "model has no value" in refused("train", bad)
    bad.write_bytes(b"\xff\xfe\x00")
    assert "not YAML" in refused("train", bad)


def test_a_folder_that_holds_a_run(refused: Callable[..., str], config_file: Path, tsn_run: Path) -> None:
    assert f"{tsn_run}: holds a run" in refused("train", config_file, "--out", tsn_run)


def test_paths_that_cannot_be_written(
    refused: Callable[..., str], config_file: Path, tsn_run: Path, toy: ToySet
) -> None:
    assert f"{config_file}: " in refused("train", config_file, "--out", config_file)
    assert f"{config_file}: " in refused("test", tsn_run, "--views", "1x1", "--out", config_file)
    assert f"{config_file}: " in refused("manifest", "frames", toy.folder / "train", config_file / "out.csv")


# Wrong data


def test_an_empty_manifest(refused: Callable[..., str], config_file: Path, tsn_run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    for text, expected in (("path,label\n", "empty.csv: no clips"), ("", "must name path,label")):
        empty.write_text(text)
        assert expected in refused("train", config_file, "--data.train", empty)
        assert expected in refused("train", config_file, "--data.val", empty)
        assert expected in refused("test", tsn_run, "--manifest", empty)


def test_a_label_that_is_no_class(refused: Callable[..., str], config_file: Path, toy: ToySet, tmp_path: Path) -> None:
    clips = toy.manifest(tmp_path / "clips.csv", (tmp_path / "x.mp4", "divin"), clips=3)
    expected = "clips.csv, line 5: class 'divin' is unknown; the nearest is 'diving'"
    assert expected in refused("train", config_file, "--data.val", clips)


def test_nothing_but_a_clip_without_video(
    run: Command, refused: Callable[..., str], config_file: Path, tsn_run: Path, tmp_path: Path, sound_only: Path
) -> None:
    clips = tmp_path / "clips.csv"
    clips.write_text(f"path,label\n{sound_only},hiking\n")
    assert f"{sound_only}: no video stream" in refused("test", tsn_run, "--manifest", clips)
    outcome = run("train", config_file, "--data.train", clips, "--data.val", "null")
    assert outcome.code == 2
    *told, line = outcome.err.splitlines()
    assert line.startswith(f"kinet: {clips}: no clip could be read")
    assert "".join(told) == f"skipped {sound_only}: no video stream"


def test_numbers_that_are_none(run: Command, config_file: Path, tsn_run: Path, tmp_path: Path) -> None:
    poisoned = tmp_path / "last.pt"
    content = torch.load(tsn_run / "checkpoints" / "last.pt", weights_only=True)
    content["model"]["shared.stem_1.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(content, poisoned)
    outcome = run("train", config_file, "--resume", poisoned, "--training.epochs", "4")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "the loss is not finite at step 7 (action nan, total nan)" in line


# Wrong checkpoints


def test_wrong_checkpoints(refused: Callable[..., str], tsn_run: Path, tmp_path: Path, config_file: Path) -> None:
    assert "nothing.pt: no such checkpoint" in refused("test", tmp_path / "nothing.pt")
    assert "no checkpoints/best.pt or last.pt" in refused("test", tmp_path)
    assert f"{config_file}: refused" in refused("test", config_file)
    cut = tmp_path / "cut.pt"
    cut.write_bytes((tsn_run / "checkpoints" / "best.pt").read_bytes()[:-1000])
    assert "cut.pt: cannot be read" in refused("test", cut)


def test_a_checkpoint_of_another_architecture(
    refused: Callable[..., str], tsn_run: Path, kinet_run: Path, config_file: Path, tmp_path: Path
) -> None:
    other = load_checkpoint(tsn_run / "checkpoints" / "last.pt")
    other.config = replace(other.config, model=replace(other.config.model, backbone="resnet18"))
    save_checkpoint(tmp_path / "other.pt", other)
    shape = tuple(other.model["shared.stem_1.0.weight"].shape)
    expected = f"shared.stem_1.0.weight is {shape} in the file, (64, 3, 7, 7) in the network"
    assert expected in refused("test", tmp_path / "other.pt")
    line = refused("train", config_file, "--resume", kinet_run / "checkpoints" / "last.pt")
    assert "gone: sea; new: none" in line  # KINet's checkpoint, TSN's config


def test_wrong_test_settings(refused: Callable[..., str], tsn_run: Path) -> None:
    assert "window stride 0: choose 1 or more" in refused("test", tsn_run, "--views", "3x1", "--stride", "0")
    assert "data.workers: -1 is out of range" in refused("test", tsn_run, "--views", "3x1", "--workers=-1")
    assert "nothing.csv: cannot be read" in refused("test", tsn_run, "--manifest", "nothing.csv")


# The process


def kinet_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kinet.cli", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_process_exits_as_main_returns(tmp_path: Path, config_file: Path) -> None:
    """Nothing else writes to stderr on the way, no library's warnings and no half-drawn progress."""
    wrong = kinet_process("train", config_file, "--data.train", tmp_path / "nothing.csv")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == f"kinet: {tmp_path / 'nothing.csv'}: cannot be read (No such file or directory)\n"
    assert (version := kinet_process("--version")).returncode == 0
    assert version.stdout == f"kinet {kinet.__version__}\n"


def test_the_process_says_one_line_after_set_up(toy: ToySet, tsn_run: Path, tmp_path: Path) -> None:
    content = torch.load(tsn_run / "checkpoints" / "best.pt", weights_only=True)
    content["model"]["classifier.weight"][0, 0] = float("inf")
    torch.save(content, tmp_path / "model.pt")
    wrong = kinet_process("test", tmp_path / "model.pt", "--precision", "bf16-mixed", "--views", "1x1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    (line,) = wrong.stderr.splitlines()
    assert "are not finite" in line


def test_an_internal_error_exits_with_1() -> None:
    code = (
        "import sys\nfrom kinet import cli, commands\n"
        "def broken(options): raise RuntimeError('internal')\n"
        "commands.info = broken\n"
        "sys.exit(cli.main(['info', 'x.yaml']))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.startswith("Traceback")
    assert "RuntimeError: internal" in process.stderr


def test_an_interruption_is_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kinet.commands.demo", interrupted)
    outcome = run("demo")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "kinet: interrupted\n")


def test_the_command_is_installed() -> None:
    assert shutil.which("kinet", path=str(Path(sys.executable).parent)) is not None


def test_pack(run: Command, refused: Callable[..., str], toy: ToySet, tmp_path: Path) -> None:
    result = run("pack", toy.val, tmp_path / "pack", "--format", "h264", "--workers", 1, "--verify").result
    assert (result["clips"], result["packed"], result["frames"], result["verified_shards"]) == (6, 6, 36, 1)
    again = run("pack", toy.val, tmp_path / "pack", "--format", "h264", "--quality", 18).result
    assert (again["clips"], again["packed"], again["bytes"]) == (6, 0, result["bytes"])
    other = ("pack", toy.val, tmp_path / "pack", "--format", "h264", "--quality", 30)
    assert "was packed with --quality 18, not 30" in refused(*other)
    assert "give 1 to 100" in refused("pack", toy.val, tmp_path / "other", "--quality", 0)
    assert "--fps" in refused("pack", toy.val, tmp_path / "other", "--fps", "-1")
