"""``kinet demo``: the whole job on the generated set, from clips to a report."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from kinet.config import Config, DataConfig, LossConfig, ModelConfig, TrainingConfig
from kinet.data.dataset import ViewDataset, ViewSample
from kinet.data.generated import (
    ACTIONS,
    CLIPS_PER_ACTION,
    SCENES,
    generated_clips,
    teacher_samples,
    write_generated_set,
)
from kinet.data.manifest import Manifest, read_manifest
from kinet.errors import InputError
from kinet.evaluation.metrics import Metrics
from kinet.evaluation.protocol import Views
from kinet.evaluation.run_test import TestOptions, run_test
from kinet.explain.report import Guess, Report, ReportRun, ReportSample, write_report
from kinet.models.kinet import HUMAN, KINet
from kinet.progress import clip_progress
from kinet.teachers.labelling import Labelling, fill_cache
from kinet.teachers.small import ModuleTeacher, mean_iou, scene_accuracy, train_parser, train_scene_net
from kinet.training.checkpoint import load_checkpoint, load_model
from kinet.training.engine import train
from kinet.training.run_folder import RunFolder, environment, read_log, write_json

TEACHER_IMAGES, HELD_OUT_IMAGES = 600, 120
TEACHER_EPOCHS = {"human": 10, "scene": 8}
VIEWS = Views(segments=5, crops=2)
SAMPLES = 8

TSN = Config(
    model=ModelConfig(
        backbone="resnet10_narrow", weights="none", auxiliaries=[], cbi=[], akg="none", segments=3, dropout=0.3
    ),
    data=DataConfig(frame_size=(96, 128), input_size=88, batch_size=16, workers=1),
    loss=LossConfig(action=1.0, human=1.0, scene=0.1),
    training=TrainingConfig(
        epochs=22,
        lr=0.03,
        milestones=[14, 19],
        weight_decay=5e-4,
        warmup_steps=30,
        clip_norm=10,
        precision="32-true",
        device="cpu",
    ),
)
KINET = replace(TSN, model=replace(TSN.model, auxiliaries=["scene", "human"], cbi=["res4"], akg="dot", akg_scale=True))
RUNS = {"TSN": TSN, "KINet": KINET}


@dataclass(frozen=True)
class Tested:
    """A trained and tested network of the demo."""

    result: dict[str, Any]
    metrics: Metrics
    training: dict[str, Any]
    run: RunFolder
    model: KINet


def run_demo(out: Path, *, seed: int = 0, clips_per_action: dict[str, int] | None = None) -> dict[str, Any]:
    """Make the set and the teachers, train and test TSN and KINet, write ``out/report.html``.

    Args:
        out: a new or empty folder.
        clips_per_action: clips of each action in ``train``, ``val`` and ``test``.

    Returns:
        What ``out/result.json`` holds: accuracies of both networks and teachers, seconds, the report's path.

    Raises:
        InputError: ``out`` holds something else.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: not empty; remove it, or choose another folder with --out")
    console = Console(stderr=True, highlight=False)
    started = time.perf_counter()

    clips_per_action = clips_per_action or CLIPS_PER_ACTION
    with clip_progress("generating clips", len(ACTIONS) * sum(clips_per_action.values())) as advance:
        manifests = write_generated_set(
            out / "clips", clips_per_action=clips_per_action, seed=seed, progress=lambda done, total: advance(1, "")
        )
    human, scene, quality = train_teachers(seed, console)
    labelling = fill_cache(out / "labels", human, scene, read_manifest(manifests["train"]))

    tested = {}
    for name, config in RUNS.items():
        console.print(f"training {name}")
        tested[name] = train_and_test(config, manifests, out / name.lower(), seed, labelling)
    seconds = time.perf_counter() - started

    tests = read_manifest(manifests["test"])
    report = Report(
        title="KINet on the generated set",
        introduction=(
            "People built from moving limbs in rendered places. An action is a movement in a place, so that neither "
            "tells it alone. A teacher of people and one of scenes were trained first; TSN and KINet then learnt the "
            "actions from the same clips in the same number of steps, KINet with the teachers' pseudo labels."
        ),
        runs=[report_run(name, one) for name, one in tested.items()],
        classes=tests.classes,
        samples=report_samples(tests, generated_scenes(clips_per_action["test"], seed), tested),
        notes=report_notes(tested, quality, seconds),
        commands=[
            f"kinet demo --out another --seed {seed + 1}",
            f"kinet test {tested['KINet'].run.folder} --views 25x10",
            f"kinet train {tested['KINet'].run.folder}/config.yaml --resume auto",
        ],
        versions=environment()["versions"],
    )
    write_report(out / "report.html", report)
    result = {
        f"{name.lower()}_{key}": one.result[key] for name, one in tested.items() for key in ("top1", "mean_class")
    }
    result |= quality | {"seconds": round(seconds, 1), "seed": seed, "report": str(out / "report.html")}
    write_json(out / "result.json", result)
    return result


def train_teachers(seed: int, console: Console) -> tuple[ModuleTeacher, ModuleTeacher, dict[str, float]]:
    """Both teachers, and how good they are on images they have not seen."""

    def report(line: str) -> None:
        console.print(line)

    images, masks, scenes = teacher_samples(TEACHER_IMAGES + HELD_OUT_IMAGES, seed)
    taught = slice(0, TEACHER_IMAGES)
    parser = train_parser(images[taught], masks[taught], epochs=TEACHER_EPOCHS["human"], seed=seed, report=report)
    scene_net = train_scene_net(
        images[taught], scenes[taught], len(SCENES), epochs=TEACHER_EPOCHS["scene"], seed=seed, report=report
    )
    human = ModuleTeacher("human", parser, ("background", "person"))
    scene = ModuleTeacher("scene", scene_net, SCENES)
    held_out = slice(TEACHER_IMAGES, None)
    quality = {
        "teacher_mean_iou": round(mean_iou(human, images[held_out], masks[held_out]), 1),
        "teacher_scene_top1": round(scene_accuracy(scene, images[held_out], scenes[held_out]), 1),
    }
    return human, scene, quality


def train_and_test(config: Config, manifests: dict[str, Path], out: Path, seed: int, labelling: Labelling) -> Tested:
    """One network: the same data order and the same number of steps for the same seed."""
    config = replace(
        config,
        out=str(out),
        data=replace(
            config.data, train=str(manifests["train"]), val=str(manifests["val"]), test=str(manifests["test"])
        ),
        training=replace(config.training, seed=seed),
    )
    has_auxiliaries = bool(config.model.auxiliaries)
    training = train(config, labelling=labelling if has_auxiliaries else Labelling(None, ()))
    last = out / "checkpoints" / "last.pt"  # so few validation clips would choose an epoch by chance
    result, metrics = run_test(last, TestOptions(VIEWS))
    return Tested(result, metrics, training, RunFolder(out), load_model(load_checkpoint(last), str(last)).eval())


def report_run(name: str, tested: Tested) -> ReportRun:
    kept = [p for part, p in tested.model.named_parameters() if not part.startswith(("human_dec", "scene_class"))]
    return ReportRun(
        name,
        {key: float(tested.result[key]) for key in ("top1", "top5", "mean_class", "videos")},
        parameters=sum(parameter.numel() for parameter in kept),
        seconds=tested.training["seconds"],
        history=read_log(tested.run.log),
        confusion=tested.metrics.confusion,
    )


def generated_scenes(clips_per_action: int, seed: int) -> list[str]:
    """The true scene of every test clip, in the manifest's order."""
    return [SCENES[clip.scene] for clip in generated_clips("test", clips_per_action, seed)]


def report_samples(clips: Manifest, scenes: list[str], tested: dict[str, Tested]) -> list[ReportSample]:
    """One clip of each action, as both networks saw it: whole frames, so that nothing is cropped away."""
    data = replace(TSN.data, input_size=TSN.data.frame_size[0])
    dataset = ViewDataset(clips, data, Views(TSN.model.segments, 1))
    samples = []
    for index in range(0, len(clips), max(1, len(clips) // SAMPLES)):
        sample = dataset[index]
        if not isinstance(sample, ViewSample):
            continue
        frames = sample.frames[:, 0]
        with torch.inference_mode():
            outputs = {name: one.model(frames[None]) for name, one in tested.items()}
        kinet = outputs["KINet"]
        people = kinet.human[0].softmax(dim=1)[:, 1].numpy() if HUMAN in tested["KINet"].model.branches else None
        places = kinet.scene[0].softmax(dim=1).mean(dim=0)
        samples.append(
            ReportSample(
                name=sample.name,
                frames=frames.numpy(),
                truth=clips.classes[sample.label],
                predictions={name: best_guess(output.action[0], clips.classes) for name, output in outputs.items()},
                masks=people,
                scenes=[Guess(SCENES[i], places[i].item()) for i in np.argsort(-places.numpy())[:2]],
                scene_truth=scenes[index],
            )
        )
    return samples


def best_guess(scores: torch.Tensor, classes: tuple[str, ...]) -> Guess:
    probabilities = scores.softmax(dim=0)
    best = int(probabilities.argmax())
    return Guess(classes[best], probabilities[best].item())


def report_notes(tested: dict[str, Tested], quality: dict[str, float], seconds: float) -> list[str]:
    videos = int(tested["TSN"].result["videos"])
    error = 100 * 0.5 / videos**0.5
    return [
        f"{videos} test clips: the standard error of an accuracy is up to {error:.1f} points, one seed each. "
        "This page shows that the parts work together; it is no evidence for either network.",
        f"Teachers on images they have not seen: mean IoU {quality['teacher_mean_iou']}%, scenes right "
        f"{quality['teacher_scene_top1']}%.",
        f"Tested with {VIEWS} views at the last epoch. Everything took {seconds:.0f} s.",
    ]
