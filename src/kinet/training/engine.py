"""The training loop."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kinet.config import Config
from kinet.data.dataset import (
    EpochSampler,
    OpenSource,
    TrainBatch,
    TrainDataset,
    ViewDataset,
    collate_train,
    collate_views,
    open_original,
)
from kinet.data.manifest import Manifest, read_manifest
from kinet.data.pack import open_packs
from kinet.errors import InputError
from kinet.evaluation.metrics import measure
from kinet.evaluation.protocol import Views, evaluate
from kinet.models.akg import edge_entropy
from kinet.models.kinet import KINet, build_kinet
from kinet.models.zoo import check_fit
from kinet.progress import Advance, clip_progress
from kinet.teachers.labelling import Labelling, label_clips
from kinet.training.checkpoint import Checkpoint, save_checkpoint
from kinet.training.criterion import Targets, joint_loss
from kinet.training.devices import build_fabric, keep_freed_memory
from kinet.training.optim import build_optimizer, freeze_parameters, set_learning_rate, set_training_mode
from kinet.training.run_folder import RunFolder, write_json

console = Console(stderr=True)
INPUT_ERROR = f"{InputError.__module__}.{InputError.__qualname__}"


class NonFiniteLoss(InputError):
    """The loss or its gradient became NaN or infinite."""


@dataclass
class Position:
    """How far a training is."""

    epoch: int = 0
    """Epochs done."""
    batch: int = 0
    """Batches done of the epoch after those."""
    step: int = 0
    """Steps done in all."""
    best_top1: float = -1.0
    """Highest validation top-1 so far, in per cent."""
    best_epoch: int = 0
    seconds: float = 0.0
    """Time spent training and validating, without set-up."""


@dataclass
class Training:
    """Everything that a training holds."""

    config: Config
    run: RunFolder
    fabric: Fabric
    model: KINet
    wrapped: nn.Module
    """The model as Fabric runs it: moved, in its precision, over several processes."""
    optimizer: torch.optim.Optimizer
    clips: Manifest
    val_clips: Manifest | None
    open_source: OpenSource
    labelling: Labelling
    position: Position
    advance: Advance = lambda clips, note: None
    """Shows progress."""


def train(config: Config, *, labelling: Labelling | None = None, resume: str | None = None) -> dict[str, Any]:
    """Train TSN or KINet, and return what ``result.json`` holds.

    The run's folder ``config.out`` gets ``config.yaml``, ``environment.json``, ``metrics.jsonl``, TensorBoard
    files, ``checkpoints/last.pt`` after every epoch, ``checkpoints/best.pt`` (of the highest validation top-1, or
    the last epoch without validation), ``skipped.csv`` if clips could not be read, and ``result.json``.

    Args:
        labelling: the pseudo labels; by default those of ``config.teachers``.
        resume: ``auto`` goes on with the run in ``config.out`` if there is one, a path with that checkpoint. None
            starts anew, and refuses a folder that holds a run.

    Raises:
        InputError: a wrong config or manifest, or a folder that holds a run.
        NonFiniteLoss: the loss or its gradient became NaN or infinite. The checkpoints stay as they were.
    """
    training = set_up(config, labelling, resume)
    position, run = training.position, training.run
    sampler, loader = build_loader(training)
    steps, clips_a_step = sampler.batches * config.training.epochs, config.data.batch_size
    with clip_progress("train", steps * clips_a_step, position.step * clips_a_step) as training.advance:
        while position.epoch < config.training.epochs:
            started = time.perf_counter()
            sampler.set_position(position.epoch, position.batch)
            row = train_epoch(training, loader)
            due = position.epoch % config.training.validate_every == 0 or position.epoch == config.training.epochs
            if training.val_clips is not None and due:
                row |= validate(training, training.val_clips)
            position.seconds += time.perf_counter() - started
            finish_epoch(training, row)
    result = {
        "epochs": position.epoch,
        "best_epoch": position.best_epoch,
        "val_top1": position.best_top1 if training.val_clips is not None else None,
        "seconds": round(position.seconds, 1),
        "clips": len(training.clips),
        "skipped": len(run.skipped),
        "run": str(run.folder),
    }
    if training.fabric.is_global_zero:
        write_json(run.result, result)
    return result


def set_up(config: Config, labelling: Labelling | None, resume: str | None) -> Training:
    """Open the data, make the labels, build network and optimiser, and go to where the last session stopped."""
    keep_freed_memory()
    run = RunFolder(Path(config.out))
    checkpoint = run.find_checkpoint(resume)
    clips, val_clips = open_manifests(config)
    packs = open_packs(config.data.pack, [clips] if val_clips is None else [clips, val_clips])
    open_source = open_original if packs is None else packs.open
    labelling = labelling or label_clips(config.teachers, config.model.auxiliaries, clips, packs)

    torch.manual_seed(config.training.seed)
    model = build_kinet(config.model, len(clips.classes), len(labelling.scene_names)).to_channels_last()
    freeze_parameters(model, config.training)
    optimizer: torch.optim.Optimizer = build_optimizer(model, config.training)
    position = Position()
    if checkpoint is not None:
        check_same_training(checkpoint, config, clips.classes, labelling.scene_names)
        position = restore(checkpoint, model, optimizer, str(run.folder))
    fabric = build_fabric(config)
    wrapped, optimizer = fabric.setup(model, optimizer)
    if fabric.is_global_zero:
        run.begin(config, position.step)
    return Training(config, run, fabric, model, wrapped, optimizer, clips, val_clips, open_source, labelling, position)


def train_epoch(training: Training, loader: DataLoader[TrainBatch]) -> dict[str, float]:
    """One epoch, or what an interruption left of it; returns the means of the logged values."""
    config, position, run = training.config, training.position, training.run
    set_training_mode(training.model, config.training)
    epoch, window = Means(), Means()
    asked = time.perf_counter()
    for batch in with_plain_errors(loader):
        got = time.perf_counter()
        lr = set_learning_rate(training.optimizer, config.training, position.epoch, position.step)
        position.step += 1
        position.batch += 1
        report_skipped(run.skip(batch.skipped))
        if batch.clips is not None and batch.targets is not None:
            values = training_step(training, batch.clips, batch.targets)
            done = time.perf_counter()
            values |= {"data_wait": (got - asked) / (done - asked), "clips_per_s": len(batch.clips) / (done - asked)}
            epoch.add(values)
            window.add(values)
        training.advance(config.data.batch_size, f"epoch {position.epoch + 1}  loss {epoch.mean('loss'):.3f}")
        if position.step % config.training.log_every == 0 and training.fabric.is_global_zero:
            log(training, "train", {"lr": lr} | window.take())
        asked = time.perf_counter()
    if not epoch.sums:
        name, cause = next(iter(run.skipped.items()))
        raise InputError(f"{training.clips.source}: no clip could be read in a whole epoch; the first, {name}: {cause}")
    position.epoch, position.batch = position.epoch + 1, 0
    return epoch.take()


def with_plain_errors(loader: DataLoader[TrainBatch]) -> Iterator[TrainBatch]:
    """The loader's batches; a worker's InputError without the traceback that the loader puts before its line."""
    try:
        yield from loader
    except InputError as error:
        raise InputError(str(error).strip().splitlines()[-1].removeprefix(f"{INPUT_ERROR}: ")) from error


def training_step(training: Training, clips: Tensor, targets: Targets) -> dict[str, float]:
    """Forward, backward, update. Returns the loss, its terms, and the graph's edge entropy."""
    fabric, config = training.fabric, training.config
    clips, targets = fabric.to_device((clips, targets))
    output = training.wrapped(clips)
    terms = joint_loss(output, targets, config.loss)
    values = {name: term.item() for name, term in terms.items()}
    check_finite("loss", values, training)
    fabric.backward(terms["total"])
    norm = fabric.clip_gradients(
        training.wrapped, training.optimizer, max_norm=config.training.clip_norm, error_if_nonfinite=False
    )
    total = values.pop("total")
    values = {"loss": total} | {f"loss_{name}": value for name, value in values.items()}
    if norm is not None:
        values["gradient_norm"] = norm.item()
        check_finite("gradient", {"norm": values["gradient_norm"]}, training)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    if output.edges is not None:
        values["edge_entropy"] = edge_entropy(output.edges.detach()).item()
    return values


def check_finite(what: str, values: dict[str, float], training: Training) -> None:
    """Stop before the optimiser makes weights, and the epoch's end a checkpoint, of numbers that are none."""
    if all(math.isfinite(value) for value in values.values()):
        return
    listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
    raise NonFiniteLoss(
        f"{training.config.out}: the {what} is not finite at step {training.position.step} ({listed}); lower "
        "training.lr or set training.precision to 32-true, then go on from the last epoch with --resume auto"
    )


def validate(training: Training, clips: Manifest) -> dict[str, float]:
    """Accuracy on the validation clips, N_seg segments and the centre crop of each, in per cent."""
    config = training.config
    loader: DataLoader[Any] = DataLoader(
        ViewDataset(clips, config.data, Views(config.model.segments, 1), training.open_source),
        config.data.batch_size,
        collate_fn=collate_views,
        num_workers=config.data.workers,
        generator=torch.Generator(),  # as in build_loader: how often a run validates must not change its training
    )
    scores, skipped = evaluate(
        training.model,
        loader,
        classes=clips.classes,
        batch_images=config.data.batch_size * config.model.segments,
        autocast=training.fabric.autocast,
    )
    report_skipped(training.run.skip(skipped))
    metrics = measure(scores.scores, scores.labels, clips.classes)
    return {"val_top1": metrics.top1, "val_top5": metrics.top5, "val_mean_class": metrics.mean_class}


def finish_epoch(training: Training, row: dict[str, float]) -> None:
    """Log the epoch and write the checkpoints."""
    position, run = training.position, training.run
    row = {"epoch": position.epoch, "seconds": position.seconds} | row
    top1 = row.get("val_top1", -1.0)
    best = training.val_clips is None or top1 > position.best_top1
    if best:
        position.best_top1, position.best_epoch = top1, position.epoch
    if training.fabric.is_global_zero:
        log(training, "epoch", row)
        checkpoint = Checkpoint(
            training.config,
            list(training.clips.classes),
            list(training.labelling.scene_names),
            training.model.state_dict(),
            results=row,
        )
        if best:
            save_checkpoint(run.best, checkpoint)
        checkpoint.training = {
            "optimizer": training.optimizer.state_dict(),
            "position": asdict(position),
            "random": torch.get_rng_state(),
        }
        save_checkpoint(run.last, checkpoint)
        shown = [f"{name} {row[name]:.3g}" for name in ("loss", "val_top1", "clips_per_s", "data_wait") if name in row]
        console.print(f"epoch {position.epoch}/{training.config.training.epochs}  {'  '.join(shown)}", highlight=False)
    training.fabric.barrier()


def log(training: Training, kind: str, row: dict[str, float]) -> None:
    """A row into metrics.jsonl and TensorBoard. Rows of epochs have the key ``epoch``."""
    training.run.append({"step": training.position.step} | row)
    training.fabric.log_dict({f"{kind}/{name}": value for name, value in row.items()}, step=training.position.step)


def report_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    for name, cause in skipped:
        console.print(f"skipped {name}: {cause}", style="yellow", highlight=False, markup=False)


def open_manifests(config: Config) -> tuple[Manifest, Manifest | None]:
    """The training and the validation clips, with the same classes."""
    if config.data.train is None:
        raise InputError("data.train: name the manifest of the training clips (kinet manifest makes one)")
    root = Path(config.data.root) if config.data.root else None
    clips = read_manifest(Path(config.data.train), root=root)
    if config.data.val is None:
        return clips, None
    return clips, read_manifest(Path(config.data.val), root=root, classes=clips.classes)


def build_loader(training: Training) -> tuple[EpochSampler, DataLoader[TrainBatch]]:
    """The loader of the training clips, and the sampler that tells it what comes next."""
    config, fabric = training.config, training.fabric
    sampler = EpochSampler(
        len(training.clips),
        config.data.batch_size,
        config.training.seed,
        rank=fabric.global_rank,
        ranks=fabric.world_size,
    )
    dataset = TrainDataset(
        training.clips,
        config.data,
        config.model.segments,
        training.labelling.source,
        config.training.seed,
        training.open_source,
    )
    loader: DataLoader[Any] = DataLoader(
        dataset,
        config.data.batch_size,
        sampler=sampler,
        collate_fn=collate_train,
        num_workers=config.data.workers,
        persistent_workers=config.data.workers > 0,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),  # its own, so that loading takes nothing from the network's random numbers
    )
    return sampler, loader


def check_same_training(
    checkpoint: Checkpoint, config: Config, classes: Sequence[str], scene_names: Sequence[str]
) -> None:
    """Refuse to go on with other classes, or with an optimiser of other parameters, than the checkpoint's."""
    for what, before, now in (
        ("classes of data.train", checkpoint.classes, classes),
        ("scenes of teachers.scene", checkpoint.scene_names, scene_names),
    ):
        if list(before) != list(now):
            old = next((name for name in before if name not in now), "none")
            new = next((name for name in now if name not in before), "none")
            raise InputError(
                f"{config.out}: the checkpoint's {len(before)} {what} are not these {len(now)} (gone: {old}; new: "
                f"{new}); go on with the same, or train anew in another --out"
            )
    for key in ("new_layers_lr", "partial_bn", "freeze_until"):
        before, now = getattr(checkpoint.config.training, key), getattr(config.training, key)
        if before != now:
            raise InputError(f"{config.out}: training.{key} is {now}, the checkpoint's was {before}; go on with that")


def restore(checkpoint: Checkpoint, model: KINet, optimizer: torch.optim.Optimizer, source: str) -> Position:
    """Put a training back to where a checkpoint was written.

    Raises:
        InputError: the config's network has become another since.
    """
    check_fit(checkpoint.model, model, source)
    model.load_state_dict(checkpoint.model)
    assert checkpoint.training is not None
    optimizer.load_state_dict(checkpoint.training["optimizer"])
    torch.set_rng_state(checkpoint.training["random"])
    return Position(**checkpoint.training["position"])


class Means:
    """Running means of logged values."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] += value
            self.counts[name] += 1

    def mean(self, name: str) -> float:
        return self.sums[name] / self.counts[name] if name in self.counts else math.nan

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: self.mean(name) for name in self.sums}
        self.sums.clear()
        self.counts.clear()
        return means
