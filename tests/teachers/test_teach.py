"""``kinet teach``: it learns, resumes to the same weights, names broken images, and refuses wrong use in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kinet.cli import main
from kinet.data.parsing_set import IGNORE
from kinet.data.video import open_clip
from kinet.errors import InputError
from kinet.models.pspnet import PSPNet, parsing_loss
from kinet.models.zoo import build_backbone
from kinet.teachers import teach as module
from kinet.teachers.measure import count, mean_iou, pixel_accuracy
from kinet.teachers.onnx_teacher import OnnxTeacher
from kinet.teachers.teach import build_optimizer, set_learning_rate, teach
from kinet.teachers.teach_config import (
    HumanTeachConfig,
    ParserConfig,
    ParsingDataConfig,
    SceneDataConfig,
    SceneNetworkConfig,
    SceneTeachConfig,
    TeachTrainingConfig,
    load_teach_config,
)
from kinet.teachers.teacher_checkpoint import build_network, load_teacher
from kinet.teachers.teacher_config import TeacherConfig
from kinet.teachers.torch_teacher import TorchTeacher
from kinet.training.run_folder import read_log

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "teach"
TRAINING = TeachTrainingConfig(
    epochs=3, optimizer="adamw", lr=0.003, new_lr_factor=1, device="cpu", precision="32-true", log_every=2
)
COLOURS = {"beach": (200, 180, 90), "forest": (30, 110, 40), "night": (15, 15, 40)}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """White squares are people: train with 12 images and masks of 0 and 255, val with 4."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    for split, number in {"train": 12, "val": 4}.items():
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True)
        for index in range(number):
            image = rng.integers(0, 120, (48, 64, 3), np.uint8)
            mask = np.zeros((48, 64), np.uint8)
            top, left = rng.integers(0, 20), rng.integers(0, 36)
            mask[top : top + 28, left : left + 28] = 255
            image[mask > 0] = 240
            Image.fromarray(image).save(folder / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    for split, number in {"train": 8, "val": 2}.items():
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(number):
                image = np.clip(rng.normal(colour, 15, (40, 52, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{index}.jpg")
    return folder


def human_config(people: Path, out: Path) -> HumanTeachConfig:
    return HumanTeachConfig(
        str(out),
        ParserConfig("resnet10_narrow", "none", output_stride=8, width=16),
        ParsingDataConfig(
            train=str(people / "train"), val=str(people / "val"), input_size=(48, 64), batch_size=4, workers=0
        ),
        replace(TRAINING),
    )


def scene_config(scenes: Path, out: Path) -> SceneTeachConfig:
    return SceneTeachConfig(
        str(out),
        SceneNetworkConfig("resnet10_narrow", "none"),
        SceneDataConfig(
            train=str(scenes / "train"), val=str(scenes / "val"), input_size=(32, 32), batch_size=6, workers=0
        ),
        replace(TRAINING, epochs=4),
    )


def test_a_parser_learns_and_is_a_teacher(people: Path, tmp_path: Path) -> None:
    config = human_config(people, tmp_path / "run")
    config.training.epochs = 8
    result = teach(config)
    rows = [row for row in read_log(tmp_path / "run/metrics.jsonl") if "epoch" in row]
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert result["val_mean_iou"] == max(row["val_mean_iou"] for row in rows) > 80
    assert rows[-1]["val_pixel_accuracy"] > 85
    assert result["best_epoch"] == max(rows, key=lambda row: row["val_mean_iou"])["epoch"]
    assert json.loads((tmp_path / "run/result.json").read_text()) == result
    teacher = TorchTeacher(TeacherConfig(result["teacher"]))
    image = np.array(Image.open(people / "val/images/0.png"))
    mask = np.array(Image.open(people / "val/masks/0.png").resize((85, 64), Image.Resampling.NEAREST)) > 0
    person = teacher.label_frames(image[None])[0] > 127
    assert (person & mask).sum() / (person | mask).sum() > 0.7


def test_a_scene_network_learns_and_is_a_teacher(scenes: Path, tmp_path: Path) -> None:
    result = teach(scene_config(scenes, tmp_path / "run"))
    assert result["val_top1"] == 100
    teacher = TorchTeacher(TeacherConfig(result["teacher"]))
    assert teacher.class_names == tuple(COLOURS)
    frames = np.stack([np.array(Image.open(scenes / "val" / name / "0.jpg")) for name in COLOURS])
    labels = teacher.label_frames(frames)
    assert isinstance(labels, tuple)
    assert labels[0][:, 0].tolist() == [0, 1, 2]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("task", ["human", "scene"])
def test_resuming_gives_the_weights_of_a_training_in_one_go(
    people: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    def config(name: str) -> Any:
        return human_config(people, tmp_path / name) if task == "human" else scene_config(scenes, tmp_path / name)

    teach(config("whole"))
    real, calls = module.validate, []

    def stop_in_the_third(*arguments: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise Stopped
        return real(*arguments)

    monkeypatch.setattr(module, "validate", stop_in_the_third)
    with pytest.raises(Stopped):
        teach(config("halves"))
    monkeypatch.setattr(module, "validate", real)
    with pytest.raises(InputError, match="holds a run; go on with --resume auto"):
        teach(config("halves"))
    teach(config("halves"), resume="auto")
    whole, halves = (load_teacher(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "halves"))
    assert all(torch.equal(tensor, halves.model[key]) for key, tensor in whole.model.items())
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in ("whole", "halves")]
    kept = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows if "epoch" in row] for rows in logs]
    assert kept[0] == kept[1]


def test_only_the_same_training_is_resumed(people: Path, tmp_path: Path) -> None:
    config = human_config(people, tmp_path / "run")
    config.training.epochs = 1
    teach(config)
    last = tmp_path / "run/checkpoints/last.pt"
    for changed, path, message in (
        (replace(config, network=replace(config.network, width=24)), last, "of another shape"),
        (replace(config, data=replace(config.data, parts=["none", "a", "b"])), last, "its 2 classes are not these 3"),
        (replace(config, training=replace(config.training, new_lr_factor=3)), last, "other groups of weights"),
        (config, last.with_name("best.pt"), "without its training state; resume from last.pt"),
        (config, people / "train/images/0.png", "cannot be read|refused"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            teach(changed, resume=str(path))
        assert "\n" not in str(caught.value)


def test_broken_images_are_skipped_and_named(people: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
            for path in sorted((people / split / part).iterdir()):
                (tmp_path / split / part / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train/images/3.png").write_bytes(b"cut")
    (tmp_path / "val/masks/1.png").write_bytes(b"cut")
    config = human_config(tmp_path, tmp_path / "run")
    config.training.epochs = 1
    assert teach(config)["skipped"] == 2
    text = (tmp_path / "run/skipped.csv").read_text()
    assert "train/images/3.png" in text
    assert "val/images/1.png" in text
    for path in (tmp_path / "train/images").iterdir():
        path.write_bytes(b"cut")
    with pytest.raises(InputError, match=r"no two images could be read in a whole epoch; .*png: "):
        teach(replace(config, out=str(tmp_path / "none")))


def test_parts_can_be_kept_apart(people: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
        for path in sorted((people / split / "images").iterdir()):
            (tmp_path / split / "images" / path.name).write_bytes(path.read_bytes())
            mask = (np.array(Image.open(people / split / "masks" / path.name)) > 0).astype(np.uint8)
            mask[24:] *= 2
            Image.fromarray(mask).save(tmp_path / split / "masks" / path.name)
    config = human_config(tmp_path, tmp_path / "run")
    config.data.parts = ["background", "upper", "lower"]
    config.training.epochs = 1
    result = teach(config)
    assert load_teacher(Path(result["teacher"])).class_names == config.data.parts
    assert TorchTeacher(TeacherConfig(result["teacher"])).classes == 2  # merged again


def test_a_resumed_training_may_have_other_batches_and_more_epochs(people: Path, tmp_path: Path) -> None:
    """The rate goes by the share of epochs done, not by steps, which larger batches make fewer of."""
    config = human_config(people, tmp_path / "run")
    config.data.batch_size, config.training.epochs = 2, 2
    teach(config)
    config.data.batch_size, config.training.epochs, config.training.log_every = 12, 4, 1
    teach(config, resume="auto")
    rates = [row["lr"] for row in read_log(tmp_path / "run/metrics.jsonl") if "lr" in row]
    assert rates[-2:] == pytest.approx([0.003 * 0.5**0.9, 0.003 * 0.25**0.9])


def test_lips_parts_merged_or_apart(tmp_path: Path) -> None:
    (tmp_path / "train_id.txt").write_text("a\nb\n")
    (tmp_path / "val_id.txt").write_text("c\n")
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{layout: lip, root: {tmp_path}}}\n")
    merged, apart, own = (
        module.parsing_data(load_teach_config("human", config, arguments).data)  # type: ignore[arg-type]
        for arguments in (
            [],
            ["--data.parts", "[lip]"],
            ["--data.parts", "[back, l, r]", "--data.mirrored", "[[1, 2]]"],
        )
    )
    assert (merged[0].names, merged[0].merged) == (("background", "person"), True)
    assert (len(apart[0].names), apart[0].merged, apart[0].mirrored[0]) == (20, False, (14, 15))
    assert (own[0].names, own[0].mirrored) == (("back", "l", "r"), ((1, 2),))
    assert [pair.image.stem for pair in merged[1]] == ["a", "b"]
    assert [pair.mask.name for pair in merged[2]] == ["c.png"]


def test_poly_schedule_and_groups() -> None:
    config = HumanTeachConfig(network=ParserConfig("resnet10_narrow", "none", width=16))
    network = build_network(config, 2)
    optimizer = build_optimizer(network, config)
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in network.parameters()
    )
    rates = [set_learning_rate(optimizer, config, done) for done in (0, 0.5, 0.999)]
    assert rates[0] == 0.01
    assert rates[1] == pytest.approx(0.01 * 0.5**0.9)
    assert 0 < rates[2] < 1e-4
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert isinstance(network, PSPNet)
    new, old = by_parameter[id(network.classify[0].weight)], by_parameter[id(network.backbone["stem_1"][0].weight)]
    assert new["lr"] == pytest.approx(10 * old["lr"])
    assert old["weight_decay"] == 1e-4
    assert by_parameter[id(network.classify[1].weight)]["weight_decay"] == 0
    assert by_parameter[id(network.classify[4].bias)]["weight_decay"] == 0


def test_mean_iou_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, IGNORE, IGNORE]])
    predicted = torch.tensor([[0, 1, 1, 1], [2, 0, 0, 3]])
    confusion = count(predicted, truth, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert mean_iou(confusion) == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert pixel_accuracy(confusion) == pytest.approx(4 / 6)
    assert mean_iou(torch.zeros(2, 2)) == 0


def test_shipped_configs() -> None:
    paths = sorted(CONFIGS.glob("*.yaml"))
    assert [path.stem for path in paths] == [
        "human_folder_densenet121",
        "human_folder_small",
        "lip_pspnet_densenet121",
        "places365_resnet152",
    ]
    for path in paths:
        header = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        assert all(word in header for word in ("Needs", "Costs", "Should reach"))
        config = load_teach_config("scene" if "places" in path.stem else "human", path, ["--network.weights", "none"])
        with torch.device("meta"):
            build_network(config, 2)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("human", ["--data.train", "none"], "none/images: no such folder"),
        ("human", ["--data.layout", "lip"], "data.root: name the folder that holds LIP's"),
        ("human", ["--data.parts", "[person]"], "data.parts: 'person' alone"),
        ("human", ["--data.batch_size", "1"], "data.batch_size: 1 is out of range; give 2 or more"),
        ("human", ["--data.input_size", "[50, 64]"], "are not multiples of 8"),
        ("human", ["--data.scales", "[2, 1]"], "2.0 is above 1.0"),
        ("human", ["--network.output_stride", "5"], "5 is none of 4, 8, 16, 32"),
        ("human", ["--network.backbone", "resnet19"], "nearest is 'resnet18'"),
        ("human", ["--network.backbone", "inception_v3"], "cannot be dilated"),
        ("human", ["--network.bakbone", "resnet18"], "unknown key 'bakbone'; nearest is 'backbone'"),
        ("scene", ["--data.train", "none"], "none: no such folder"),
        ("scene", ["--data.scales", "[0.5, 2]"], "data.scales: 2.0 is out of range"),
        ("scene", ["--network.width", "3"], "unknown key 'width'"),
        ("music", [], "invalid choice: 'music'"),
    ],
)
def test_mistakes_get_one_line(
    people: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    arguments: list[str],
    message: str,
) -> None:
    folder = scenes if task == "scene" else people
    values = {"out": str(tmp_path / "run"), "network": {"backbone": "resnet10_narrow", "weights": "none"}}
    values["data"] = {"train": str(folder / "train")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert main(["teach", task, str(tmp_path / "c.yaml"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_command_prints_its_result(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(
        f"network: {{backbone: resnet10_narrow, weights: none}}\ndata: {{train: {scenes}/train, workers: 0}}\n"
    )
    arguments = ["--out", str(tmp_path / "run"), "--training.epochs", "1", "--data.input_size", "[32, 32]"]
    assert main(["teach", "scene", str(tmp_path / "c.yaml"), *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["val_top1"] is None  # no validation images
    assert Path(result["teacher"]).is_file()


def test_the_papers_parser_learns_real_frames(shared: Path) -> None:
    """PSPNet with DenseNet-121, masks from person_prisma.onnx: the loss on four frames falls."""
    clips = sorted((shared / "data/hmdb25/golf").iterdir())[:4]
    frames = np.concatenate([open_clip(clip).read([0])[:, ::2, ::2] for clip in clips])
    labels = OnnxTeacher(TeacherConfig(str(shared / "weights/person_prisma.onnx"))).label_frames(frames)
    assert isinstance(labels, np.ndarray)
    size = (64, 80)
    images = torch.nn.functional.interpolate(torch.from_numpy(frames).permute(0, 3, 1, 2), size, mode="bilinear")
    person = torch.nn.functional.interpolate(torch.from_numpy(labels)[:, None].float(), size, mode="bilinear")
    masks = (person[:, 0] > 127).to(torch.uint8)
    assert 0.02 < masks.float().mean() < 0.5
    torch.manual_seed(0)
    network = PSPNet(build_backbone("densenet121"), 2)
    optimizer = torch.optim.AdamW(network.parameters(), 0.001)
    losses = []
    for _ in range(5):
        loss = parsing_loss(network(images), masks, 0.4, IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
