"""Training a teacher: ``kinet teach human`` and ``kinet teach scene``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from kinet.data.dataset import EpochSampler, Skipped
from kinet.data.parsing_set import IGNORE, Batch, Labels, Pair, ParsingSet, WholePairs, collate, folder_pairs
from kinet.data.scene_set import SceneFolder, SceneSet, WholeScenes
from kinet.data.sources import lip
from kinet.errors import InputError
from kinet.models.pspnet import PSPNet, parsing_loss
from kinet.models.zoo import check_fit
from kinet.progress import Advance, clip_progress
from kinet.teachers.measure import Autocast, parsing_scores, scene_scores
from kinet.teachers.teach_config import HumanTeachConfig, ParsingDataConfig, SceneTeachConfig, TeachConfig
from kinet.teachers.teacher_checkpoint import SceneNet, TeacherCheckpoint, build_network, load_teacher, save_teacher
from kinet.training.devices import keep_freed_memory, make_fabric
from kinet.training.position import Means
from kinet.training.run_folder import RunFolder, write_json

console = Console(stderr=True)
LEAST_BATCH = 2
"""Batch normalisation has nothing to normalise in the pyramid's 1x1 map of a single image."""


@dataclass
class Task:
    """What is learnt: all that differs between people and scenes."""

    class_names: tuple[str, ...]
    train: Dataset[Any]
    val: Dataset[Any] | None
    val_batch: int
    loss: Callable[[Any, Tensor], Tensor]
    """Of the network's output and the targets (B, ...)."""
    scores: Callable[[Any, DataLoader[Any], Autocast], tuple[dict[str, float], list[Skipped]]]
    """Of the network on the validation images, in per cent."""
    best: str
    """The score that chooses the best epoch."""


@dataclass
class Progress:
    """How far a training is."""

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    """The highest validation score so far."""
    best_epoch: int = 0
    seconds: float = 0.0


@dataclass
class Teaching:
    """Everything that a training holds."""

    config: TeachConfig
    task: Task
    run: RunFolder
    fabric: Fabric
    network: PSPNet | SceneNet
    wrapped: nn.Module
    """The network as Fabric runs it."""
    optimizer: torch.optim.Optimizer
    progress: Progress


def teach(config: TeachConfig, *, resume: str | None = None) -> dict[str, Any]:
    """Train a teacher, and return what ``result.json`` holds.

    ``config.out`` gets ``config.yaml``, ``environment.json``, ``metrics.jsonl``, TensorBoard files,
    ``checkpoints/last.pt`` after every epoch, ``best.pt`` (of the highest mean IoU or top-1, or the last epoch without
    validation), which is a teacher for ``teachers.human.path`` or ``teachers.scene.path``, ``skipped.csv`` of images
    that could not be read, and ``result.json``.

    Args:
        resume: ``auto`` goes on behind the last whole epoch in ``config.out`` if there is one, a path with that
            checkpoint. None starts anew, and refuses a folder that holds a run.

    Raises:
        InputError: a wrong config or data, a folder that holds a run, or a loss that is not finite.
    """
    teaching = set_up(config, resume)
    task, run, progress = teaching.task, teaching.run, teaching.progress
    sampler, loader = build_loader(teaching)
    steps, images = sampler.batches * config.training.epochs, config.data.batch_size
    with clip_progress("teach", steps * images, progress.step * images, "images") as advance:
        while progress.epoch < config.training.epochs:
            started = time.perf_counter()
            sampler.set_position(progress.epoch, 0)
            row = train_epoch(teaching, loader, sampler.batches, advance)
            if task.val is not None:
                row |= validate(teaching, task.val)
            progress.seconds += time.perf_counter() - started
            finish_epoch(teaching, row)
    result = {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        task.best: progress.best if task.val is not None else None,
        "seconds": round(progress.seconds, 1),
        "skipped": len(run.skipped),
        "teacher": str(run.best),
    }
    if teaching.fabric.is_global_zero:
        write_json(run.result, result)
    return result


def set_up(config: TeachConfig, resume: str | None) -> Teaching:
    """Open the data, build network and optimiser, and go to where the last session stopped."""
    keep_freed_memory()
    run = RunFolder(Path(config.out))
    checkpoint = run.find_resumed(resume, load_teacher)
    task = human_task(config) if isinstance(config, HumanTeachConfig) else scene_task(config)
    torch.manual_seed(config.training.seed)
    network = build_network(config, len(task.class_names))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    optimizer = build_optimizer(network, config)
    progress = Progress()
    if checkpoint is not None:
        progress = restore(checkpoint, network, optimizer, task, str(run.last) if resume == "auto" else str(resume))
    fabric = make_fabric(config.training.device, config.training.precision, config.out, progress.step)
    wrapped, optimizer = fabric.setup(network, optimizer)
    if checkpoint is not None and checkpoint.training is not None:
        optimizer.load_state_dict(checkpoint.training["optimizer"])  # behind the set-up, which moved the weights
    run.begin(config, fabric, progress.step, progress.epoch)
    return Teaching(config, task, run, fabric, network, wrapped, optimizer, progress)


def train_epoch(teaching: Teaching, loader: DataLoader[Any], batches: int, advance: Advance) -> dict[str, float]:
    """One epoch of ``batches``; returns the mean loss."""
    config, run, progress = teaching.config, teaching.run, teaching.progress
    teaching.network.train()
    epoch, window = Means(), Means()
    for number, batch in enumerate(loader):
        done = (progress.epoch + number / batches) / config.training.epochs
        lr = set_learning_rate(teaching.optimizer, config, done)
        progress.step += 1
        run.skip(batch.skipped)
        if batch.images is not None and len(batch.images) >= LEAST_BATCH:
            loss = training_step(teaching, batch)
            epoch.add({"loss": loss})
            window.add({"loss": loss})
        advance(config.data.batch_size, f"epoch {progress.epoch + 1}  loss {epoch.mean('loss'):.3f}")
        if progress.step % config.training.log_every == 0 and window.sums:
            log(teaching, "train", {"lr": lr} | window.take())
    if not epoch.sums:
        name, cause = next(iter(run.skipped.items()), ("data", "fewer than two images"))
        raise InputError(f"{config.out}: no two images could be read in a whole epoch; {name}: {cause}")
    progress.epoch += 1
    return epoch.take()


def training_step(teaching: Teaching, batch: Batch) -> float:
    """Forward, backward, update; the loss."""
    images, targets = teaching.fabric.to_device((batch.images, batch.targets))
    loss = teaching.task.loss(teaching.wrapped(images), targets)
    value = loss.item()
    if not math.isfinite(value):
        raise InputError(
            f"{teaching.config.out}: the loss is {value} at step {teaching.progress.step}; lower training.lr or set"
            " training.precision to 32-true, then go on from the last epoch with --resume auto"
        )
    teaching.fabric.backward(loss)
    teaching.optimizer.step()
    teaching.optimizer.zero_grad(set_to_none=True)
    return value


def validate(teaching: Teaching, images: Dataset[Any]) -> dict[str, float]:
    """The scores on the validation images."""
    loader: DataLoader[Any] = DataLoader(
        images,
        teaching.task.val_batch,
        collate_fn=collate,
        num_workers=teaching.config.data.workers,
        generator=torch.Generator(),  # takes nothing from the network's random numbers
    )
    row, skipped = teaching.task.scores(teaching.network, loader, teaching.fabric.autocast)
    teaching.run.skip(skipped)
    return row


def finish_epoch(teaching: Teaching, row: dict[str, float]) -> None:
    """Log the epoch and write the checkpoints."""
    task, run, progress = teaching.task, teaching.run, teaching.progress
    row = {"epoch": progress.epoch, "seconds": progress.seconds} | row
    score = row.get(task.best, -1.0)
    best = task.val is None or score > progress.best
    if best:
        progress.best, progress.best_epoch = score, progress.epoch
    log(teaching, "epoch", row)
    if teaching.fabric.is_global_zero:
        checkpoint = TeacherCheckpoint(teaching.config, list(task.class_names), teaching.network.state_dict(), row)
        if best:
            save_teacher(run.best, checkpoint)
        checkpoint.training = {
            "optimizer": teaching.optimizer.state_dict(),
            "progress": asdict(progress),
            "random": torch.get_rng_state(),
        }
        save_teacher(run.last, checkpoint, previous=run.previous)
        shown = "  ".join(f"{name} {row[name]:.4g}" for name in row if name not in ("epoch", "seconds"))
        console.print(f"epoch {progress.epoch}/{teaching.config.training.epochs}  {shown}", highlight=False)
    teaching.fabric.barrier()


def log(teaching: Teaching, kind: str, row: dict[str, float]) -> None:
    """A row into metrics.jsonl and TensorBoard. Rows of epochs have the key ``epoch``."""
    step = teaching.progress.step
    if teaching.fabric.is_global_zero:
        teaching.run.append({"step": step} | row)
    teaching.fabric.log_dict({f"{kind}/{name}": value for name, value in row.items()}, step=step)


def human_task(config: HumanTeachConfig) -> Task:
    """Parsing images, with people's parts merged or apart."""
    data, network = config.data, config.network
    labels, train, val = parsing_data(data)

    def loss(output: Any, masks: Tensor) -> Tensor:
        return parsing_loss(output, masks, network.auxiliary, IGNORE)

    def scores(parser: PSPNet, loader: DataLoader[Any], autocast: Autocast) -> tuple[dict[str, float], list[Skipped]]:
        return parsing_scores(parser, loader, len(labels.names), autocast)

    return Task(
        labels.names,
        ParsingSet(train, labels, data.input_size, data.scales, data.flip, config.training.seed),
        WholePairs(val, labels, data.input_size, network.output_stride) if val else None,
        1,  # every image has its own shape
        loss,
        scores,
        "val_mean_iou",
    )


def parsing_data(data: ParsingDataConfig) -> tuple[Labels, list[Pair], list[Pair]]:
    """What the masks mean, and the pairs to train and to validate on; the latter may be none."""
    names, mirrored = tuple(data.parts), tuple(data.mirrored)
    if data.layout == "lip":
        if data.root is None:
            raise InputError("data.root: name the folder that holds LIP's TrainVal_images")
        train, val = lip.lip_pairs(Path(data.root), "train"), lip.lip_pairs(Path(data.root), "val")
        if names == ("lip",):
            names, mirrored = lip.LABELS, lip.MIRRORED
    else:
        if data.train is None:
            raise InputError("data.train: name a folder that holds images and masks")
        train, val = folder_pairs(Path(data.train)), folder_pairs(Path(data.val)) if data.val else []
    if len(names) == 1:
        raise InputError(f"data.parts: {names[0]!r} alone; name the background and every part, or none to merge them")
    merged = not names
    return Labels(names or ("background", "person"), merged, data.ignored, mirrored), train, val


def scene_task(config: SceneTeachConfig) -> Task:
    """Naming the scene of an image."""
    data = config.data
    if data.train is None:
        raise InputError("data.train: name a folder that holds a folder of images for each scene")
    train = SceneFolder(Path(data.train))
    if len(train.classes) < 2:
        raise InputError(f"{data.train}: has one class; a teacher of scenes needs two or more")
    return Task(
        train.classes,
        SceneSet(train, data.input_size, data.scales, data.flip, config.training.seed),
        WholeScenes(SceneFolder(Path(data.val), train.classes), data.input_size) if data.val else None,
        data.batch_size,
        functional.cross_entropy,
        scene_scores,
        "val_top1",
    )


def build_optimizer(network: PSPNet | SceneNet, config: TeachConfig) -> torch.optim.Optimizer:
    """New layers at ``new_lr_factor`` times the rate; no decay of biases and batch normalisations."""
    settings = config.training
    new = {id(parameter) for module in network.new_layers() for parameter in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            factor = settings.new_lr_factor if id(parameter) in new else 1.0
            decay = 0.0 if name == "bias" or isinstance(module, _BatchNorm) else settings.weight_decay
            groups.setdefault((factor, decay), []).append(parameter)
    listed = [{"params": p, "lr_factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(listed, lr=settings.lr, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(listed, lr=settings.lr, momentum=settings.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TeachConfig, done: float) -> float:
    """The poly schedule (PSPNet, section 4.1): lr (1 - done) ** power; ``done`` is the share of all steps."""
    lr = float(config.training.lr * (1 - done) ** config.training.power)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    return lr


def build_loader(teaching: Teaching) -> tuple[EpochSampler, DataLoader[Any]]:
    """The loader of the training images, and the sampler that tells it the epoch."""
    task, config, fabric, data = teaching.task, teaching.config, teaching.fabric, teaching.config.data
    count = len(task.train)  # type: ignore[arg-type]  # torch's Dataset has no __len__, these have
    sampler = EpochSampler(
        count, data.batch_size, config.training.seed, rank=fabric.global_rank, ranks=fabric.world_size
    )
    loader: DataLoader[Any] = DataLoader(
        task.train,
        data.batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=data.workers,
        persistent_workers=data.workers > 0,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),
    )
    return sampler, loader


def restore(
    checkpoint: TeacherCheckpoint, network: nn.Module, optimizer: torch.optim.Optimizer, task: Task, source: str
) -> Progress:
    """Put a training back to where a checkpoint was written, all but the optimiser's state.

    Raises:
        InputError: the checkpoint is a teacher alone, of other classes, network or optimiser.
    """
    if checkpoint.training is None:
        raise InputError(f"{source}: holds a teacher without its training state; resume from last.pt")
    if tuple(checkpoint.class_names) != task.class_names:
        raise InputError(
            f"{source}: its {len(checkpoint.class_names)} classes are not these {len(task.class_names)};"
            " go on with the same data, or train anew in another --out"
        )
    check_fit(checkpoint.model, network, source)
    network.load_state_dict(checkpoint.model)
    saved = checkpoint.training["optimizer"]
    if [len(g["params"]) for g in saved["param_groups"]] != [len(g["params"]) for g in optimizer.param_groups]:
        raise InputError(f"{source}: its optimiser has other groups of weights; go on with the same training settings")
    torch.set_rng_state(checkpoint.training["random"])
    return Progress(**checkpoint.training["progress"])
