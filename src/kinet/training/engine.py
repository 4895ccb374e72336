"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from kinet.errors import InputError, Stopped
from kinet.evaluation.metrics import measure
from kinet.evaluation.protocol import Views, evaluate
from kinet.models.akg import edge_entropy
from kinet.models.kinet import KINet, build_kinet
from kinet.models.zoo import check_fit
from kinet.progress import Advance, clip_progress
from kinet.teachers.fixed_teacher import open_fixed_teachers
from kinet.teachers.labelling import Labelling, label_clips
from kinet.training.checkpoint import Checkpoint, save_checkpoint
from kinet.training.criterion import joint_loss
from kinet.training.devices import build_fabric, keep_freed_memory
from kinet.training.optim import build_optimizer, freeze_parameters, set_learning_rate, set_training_mode
from kinet.training.position import Means, Position, merged
from kinet.training.ranks import gather, lost_rank_in_one_line, on_rank_zero, share_buffers, sum_over_ranks
from kinet.training.resume import check_same_teachers, check_same_training, set_random_state, training_state
from kinet.training.run_folder import RunFolder, tell, write_json
from kinet.training.stopping import StopRequest, full_disk_in_one_line, outlive_sigterm

console = Console(stderr=True)
LONG_WAIT = 0.2
"""Share of the steps' time spent waiting for clips from which on a hint is given."""
INPUT_ERROR = f"{InputError.__module__}.{InputError.__qualname__}"


class NonFiniteLoss(InputError):
    """The loss or its gradient became NaN or infinite."""


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
    epoch: Means
    """Of what was logged in the epoch at work, on this process."""
    window: Means
    """Of what was logged since the last line of metrics.jsonl."""
    stop: StopRequest = field(default_factory=StopRequest)
    advance: Advance = lambda clips, note: None
    """Shows progress."""
    saved_at: float = field(default_factory=time.monotonic)
    """When the last checkpoint was written."""
    hinted: bool = False
    """It was said that the steps wait for clips."""


def train(
    config: Config,
    *,
    labelling: Labelling | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    resume: str | None = None,
) -> dict[str, Any]:
    """Train TSN or KINet, and return what ``result.json`` holds.

    The run's folder ``config.out`` gets ``config.yaml``, ``environment.json``, ``metrics.jsonl``, TensorBoard
    files, ``checkpoints/last.pt`` after every epoch and ``training.checkpoint_minutes`` within, the one before as
    ``previous.pt``, ``best.pt`` (of the highest validation top-1, or the last epoch without validation),
    ``skipped.csv`` if clips could not be read, and ``result.json``.

    Args:
        labelling: the pseudo labels; by default those of ``config.teachers``.
        teachers: networks for fixed branches, by task (see ``StagedNetwork``); by default those of ``config.teachers``.
        resume: ``auto`` goes on with the run in ``config.out`` if there is one, a path with that checkpoint. None
            starts anew, and refuses a folder that holds a run.

    Raises:
        InputError: a wrong config or manifest, a folder that holds a run, or a full disk.
        NonFiniteLoss: the loss or its gradient became NaN or infinite. The checkpoints stay as they were.
        Stopped: SIGTERM came, and the training was saved; or another of its processes ended.
    """
    with full_disk_in_one_line(config.out):
        training = set_up(config, labelling, teachers, resume)
        with StopRequest() as training.stop, lost_rank_in_one_line(training.fabric, config.out):
            train_epochs(training)
    position = training.position
    result = {
        "epochs": position.epoch,
        "best_epoch": position.best_epoch,
        "val_top1": position.best_top1 if training.val_clips is not None else None,
        "seconds": round(position.seconds, 1),
        "data_wait": round(position.data_wait, 4),
        "clips": len(training.clips),
        "skipped": len(training.run.skipped),
        "run": str(training.run.folder),
    }
    on_rank_zero(write_json)(training.run.result, result)
    return result


def set_up(
    config: Config, labelling: Labelling | None, teachers: Mapping[str, nn.Module] | None, resume: str | None
) -> Training:
    """Open the data, make the labels, build network and optimiser, and go to where the last session stopped."""
    keep_freed_memory()
    run = RunFolder(Path(config.out))
    checkpoint = run.find_checkpoint(resume)
    clips, val_clips = open_manifests(config)
    packs = open_packs(config.data.pack, [clips] if val_clips is None else [clips, val_clips])
    open_source = open_original if packs is None else packs.open
    labelling = labelling or label_clips(config.teachers, config.model.labelled_auxiliaries, clips, packs)
    model_config, teachers = open_fixed_teachers(config, teachers)
    config = replace(config, model=model_config)

    torch.manual_seed(config.training.seed)
    model = build_kinet(config.model, len(clips.classes), len(labelling.scene_names), teachers).to_channels_last()
    freeze_parameters(model, config.training)
    optimizer: torch.optim.Optimizer = build_optimizer(model, config.training)
    state: dict[str, Any] = {}
    if checkpoint is not None:
        changed = check_same_training(checkpoint, config, clips.classes, labelling.scene_names, len(clips))
        check_fit(checkpoint.model, model, str(run.folder))
        check_same_teachers(checkpoint.model, model, str(run.folder))
        model.load_state_dict(checkpoint.model)
        state = checkpoint.training or {}
        if changed:
            tell(f"{config.out}: goes on with other settings: {'; '.join(changed)}")
    position = Position(**state.get("position", {}))
    fabric = build_fabric(config, steps=position.step)
    wrapped, optimizer = fabric.setup(model, optimizer)
    if state:
        optimizer.load_state_dict(state["optimizer"])  # behind the set-up, which moved the weights that it follows
    set_random_state(fabric, state.get("random", []), config.training.seed, position.step)
    epoch, window = (merged([state[name]] if state and fabric.is_global_zero else []) for name in ("epoch", "window"))
    run.begin(config, fabric, position.step, position.epoch)
    return Training(
        config,
        run,
        fabric,
        model,
        wrapped,
        optimizer,
        clips,
        val_clips,
        open_source,
        labelling,
        position,
        epoch,
        window,
    )


def train_epochs(training: Training) -> None:
    """Every epoch from the position on: train, validate, log, save."""
    config, position, fabric = training.config, training.position, training.fabric
    sampler, loader = build_loader(training)
    epoch_clips = sampler.batches * config.data.batch_size * fabric.world_size
    done = position.epoch * epoch_clips + position.clips
    with clip_progress("train", config.training.epochs * epoch_clips, done) as training.advance:
        while position.epoch < config.training.epochs:
            sampler.set_position(position.epoch, position.clips)
            train_epoch(training, loader)
            number = position.epoch + 1
            due = number % config.training.validate_every == 0 or number == config.training.epochs
            row = validate(training, training.val_clips) if training.val_clips is not None and due else {}
            finish_epoch(training, row)


def train_epoch(training: Training, loader: DataLoader[TrainBatch]) -> None:
    """One epoch, or what an interruption left of it."""
    config, position, fabric = training.config, training.position, training.fabric
    step_clips = config.data.batch_size * fabric.world_size
    set_training_mode(training.model, config.training)
    asked = time.perf_counter()
    for batch in with_plain_errors(loader):
        got = time.perf_counter()
        lr = set_learning_rate(training.optimizer, config.training, position.epoch, position.step)
        position.step += 1
        position.clips += step_clips
        clips, skipped = sum_over_ranks(fabric, [len(batch), len(batch.skipped)])
        if skipped:
            training.run.skip([clip for part in gather(fabric, batch.skipped) for clip in part])
        if clips:
            values = training_step(training, batch, clips)
            training.epoch.add(values)
            training.window.add(values)
        note_times(training, got - asked, time.perf_counter() - asked, clips)
        training.advance(step_clips, f"epoch {position.epoch + 1}  loss {training.epoch.mean('loss'):.3f}")
        if position.step % config.training.log_every == 0:
            log(training, "train", {"lr": lr} | readable(merge_over_ranks(training, training.window).take()))
            training.window.take()
        save_if_due(training)
        asked = time.perf_counter()
    if not merge_over_ranks(training, training.epoch).counts["loss"]:
        name, cause = next(iter(training.run.skipped.items()))
        raise InputError(f"{training.clips.source}: no clip could be read in a whole epoch; the first, {name}: {cause}")


def save_if_due(training: Training) -> None:
    """Write a checkpoint where rank 0's clock says so, or where one of the processes was asked to stop; stop then."""
    fabric, minutes = training.fabric, (time.monotonic() - training.saved_at) / 60
    due = fabric.is_global_zero and minutes >= training.config.training.checkpoint_minutes
    due_on, asked_on = sum_over_ranks(fabric, [due, training.stop.asked])
    if due_on or asked_on:
        write_last(training, state_of(training))
    if asked_on:
        fabric.barrier()
        raise stopped(training)


def with_plain_errors(loader: DataLoader[TrainBatch]) -> Iterator[TrainBatch]:
    """The loader's batches; a worker's InputError without the traceback that the loader puts before its line."""
    try:
        yield from loader
    except InputError as error:
        raise InputError(str(error).strip().splitlines()[-1].removeprefix(f"{INPUT_ERROR}: ")) from error


def training_step(training: Training, batch: TrainBatch, clips: float) -> dict[str, float]:
    """Forward, backward, update. Returns the loss, its terms, and the graph's edge entropy.

    Args:
        clips: readable ones in the batches of all processes. Each process counts by its own, so that the gradient is
            that of the mean over all; one without any takes part with a gradient of zero.
    """
    fabric = training.fabric
    if batch.clips is None or batch.targets is None:
        values: dict[str, float] = {}
        fabric.backward(nothing_learnt(training))
    else:
        frames, targets = fabric.to_device((batch.clips, batch.targets))
        output = training.wrapped(frames)
        terms = joint_loss(output, targets, training.config.loss)
        values = {name: term.item() for name, term in terms.items()}
        check_finite("loss", values, training)
        fabric.backward(terms["total"] * (len(frames) * fabric.world_size / clips))
        values = {"loss": values.pop("total")} | {f"loss_{name}": value for name, value in values.items()}
        if output.edges is not None:
            values["edge_entropy"] = edge_entropy(output.edges.detach()).item()
    norm = fabric.clip_gradients(
        training.wrapped, training.optimizer, max_norm=training.config.training.clip_norm, error_if_nonfinite=False
    )
    if norm is not None:
        check_finite("gradient", {"norm": norm.item()}, training)
        values["gradient_norm"] = norm.item()
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    return values


def nothing_learnt(training: Training) -> Tensor:
    """A loss of zero through the whole network, whose statistics and random numbers stay as they are."""
    data, model = training.config.data, training.model
    frames = torch.zeros(1, model.segments, 3, data.input_size, data.input_size, dtype=torch.uint8)
    model.eval()
    output = training.wrapped(training.fabric.to_device(frames))
    set_training_mode(model, training.config.training)
    parts = [part.float().sum() for part in (output.action, output.human, output.scene) if part is not None]
    return 0 * torch.stack(parts).sum()


def note_times(training: Training, waited: float, passed: float, clips: float) -> None:
    """Put the seconds of a step, and of its beginning that was waiting for the clips, to the position and the means."""
    position = training.position
    position.seconds += passed
    position.step_seconds += passed
    position.wait_seconds += waited
    for means in (training.epoch, training.window):
        means.add({"wait_seconds": waited, "step_seconds": passed, "clips": clips})


def readable(means: dict[str, float]) -> dict[str, float]:
    """The means with ``data_wait``, the share of the time spent waiting for clips, and ``clips_per_s``."""
    row = dict(means)
    waited, passed, clips = (row.pop(name) for name in ("wait_seconds", "step_seconds", "clips"))
    return row | {"data_wait": waited / passed, "clips_per_s": clips / passed}


def merge_over_ranks(training: Training, means: Means) -> Means:
    """A copy of ``means`` over all processes."""
    return merged(gather(training.fabric, means.totals()))


def check_finite(what: str, values: dict[str, float], training: Training) -> None:
    """Stop before the optimiser makes weights, and the epoch's end a checkpoint, of numbers that are none."""
    if all(math.isfinite(value) for value in values.values()):
        return
    listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
    raise NonFiniteLoss(
        f"{training.config.out}: the {what} is not finite at step {training.position.step} ({listed}); lower "
        "training.lr or set training.precision to 32-true, then go on from the last checkpoint with --resume auto"
    )


def validate(training: Training, clips: Manifest) -> dict[str, float]:
    """Accuracy on the validation clips, N_seg segments and the centre crop of each, in per cent.

    Each process takes its share of the clips. A stop in here saves the training as it was before.
    """
    config, fabric, started = training.config, training.fabric, time.perf_counter()
    state = state_of(training)
    share_buffers(fabric, training.model)
    loader: DataLoader[Any] = DataLoader(
        ViewDataset(clips, config.data, Views(config.model.segments, 1), training.open_source),
        config.data.batch_size,
        sampler=range(fabric.global_rank, len(clips), fabric.world_size),
        collate_fn=collate_views,
        num_workers=config.data.workers,
        worker_init_fn=outlive_sigterm,
        generator=torch.Generator(),  # as in build_loader: how often a run validates must not change its training
    )

    def stop_if_asked(clips: int) -> None:
        if training.stop.asked:
            write_last(training, state)
            raise stopped(training)

    scores, skipped = evaluate(
        training.model,
        loader,
        classes=clips.classes,
        batch_images=config.data.batch_size * config.model.segments,
        progress=stop_if_asked,
        autocast=fabric.autocast,
        gather=lambda part: gather(fabric, part),
    )
    training.run.skip(skipped)
    metrics = measure(scores.scores, scores.labels, clips.classes)
    training.position.seconds += time.perf_counter() - started
    return {"val_top1": metrics.top1, "val_top5": metrics.top5, "val_mean_class": metrics.mean_class}


def finish_epoch(training: Training, scores: dict[str, float]) -> None:
    """Log the epoch and write the checkpoints."""
    position, run, config = training.position, training.run, training.config
    position.epoch, position.clips = position.epoch + 1, 0
    means = readable(merge_over_ranks(training, training.epoch).take())
    training.epoch.take()
    row = {"epoch": position.epoch, "seconds": position.seconds} | means | scores
    top1 = row.get("val_top1", -1.0)
    best = training.val_clips is None or top1 > position.best_top1
    if best:
        position.best_top1, position.best_epoch = top1, position.epoch
    log(training, "epoch", row)
    if best:
        on_rank_zero(save_checkpoint)(run.best, checkpoint_of(training, row))
    write_last(training, state_of(training), row)
    shown = [f"{name} {row[name]:.3g}" for name in ("loss", "val_top1", "clips_per_s", "data_wait") if name in row]
    line = f"epoch {position.epoch}/{config.training.epochs}  {'  '.join(shown)}"
    on_rank_zero(console.print)(line, highlight=False, soft_wrap=True)
    if row["data_wait"] > LONG_WAIT and not training.hinted:
        training.hinted = True
        tell(
            f"the steps waited for clips {row['data_wait']:.0%} of their time: raise data.workers"
            f" ({config.data.workers} now), or pack the clips with kinet pack"
        )
    training.fabric.barrier()


def log(training: Training, kind: str, row: dict[str, float]) -> None:
    """A row into metrics.jsonl and TensorBoard. Rows of epochs have the key ``epoch``."""
    training.run.append({"step": training.position.step} | row)
    training.fabric.log_dict({f"{kind}/{name}": value for name, value in row.items()}, step=training.position.step)


def state_of(training: Training) -> dict[str, Any]:
    """What a resumed training needs besides the network; every process takes part."""
    return training_state(
        training.fabric,
        training.optimizer,
        training.position,
        merge_over_ranks(training, training.epoch),
        merge_over_ranks(training, training.window),
        len(training.clips),
    )


@on_rank_zero
def write_last(training: Training, state: dict[str, Any], results: dict[str, float] | None = None) -> None:
    """Write ``last.pt``, and let what was logged before it reach its file first."""
    training.fabric.logger.save()
    checkpoint = checkpoint_of(training, results or {"epoch": training.position.epoch, "step": training.position.step})
    checkpoint.training = state
    save_checkpoint(training.run.last, checkpoint, previous=training.run.previous)
    training.saved_at = time.monotonic()


def checkpoint_of(training: Training, results: dict[str, float]) -> Checkpoint:
    """The network as it is now."""
    return Checkpoint(
        training.config,
        list(training.clips.classes),
        list(training.labelling.scene_names),
        training.model.state_dict(),
        results,
    )


def stopped(training: Training) -> Stopped:
    step = training.position.step
    return Stopped(f"{training.config.out}: stopped by SIGTERM and saved at step {step}; go on with --resume auto")


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
        worker_init_fn=outlive_sigterm,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),  # its own, so that loading takes nothing from the network's random numbers
    )
    return sampler, loader
