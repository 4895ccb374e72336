"""``kinet test``: a checkpoint's scores on a manifest, and what they amount to."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from kinet.config import LIMITS, Config, check_numbers
from kinet.data.dataset import ViewDataset, collate_views, open_original
from kinet.data.manifest import Manifest, read_manifest
from kinet.data.pack import open_packs
from kinet.errors import InputError
from kinet.evaluation.metrics import Metrics, measure
from kinet.evaluation.protocol import Views, evaluate
from kinet.evaluation.scores import write_scores
from kinet.progress import clip_progress
from kinet.training.checkpoint import load_checkpoint, load_model
from kinet.training.devices import build_fabric, keep_freed_memory
from kinet.training.run_folder import write_json, write_skipped

IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class TestOptions:
    """What a test can be told besides the checkpoint."""

    views: Views
    manifest: Path | None = None
    """Default: the checkpoint's ``data.test``, else its ``data.val``."""
    root: Path | None = None
    """Default: the checkpoint's ``data.root``."""
    pack: list[str] | None = None
    """Packs to read the clips from; none of them for the original files. Default: the checkpoint's ``data.pack``."""
    out: Path | None = None
    """Folder for the results. Default: ``test/<manifest>_<views>`` in the run's folder."""
    stride: int = 1
    """Segments from one window to the next."""
    workers: int | None = None
    precision: str | None = None
    device: str | None = None


def run_test(source: Path, options: TestOptions) -> tuple[dict[str, Any], Metrics]:
    """Test the best checkpoint of a run, or a checkpoint file.

    Writes ``scores.npz``, ``result.json``, ``per_class.csv``, ``confusion.csv`` and, if clips were unreadable,
    ``skipped.csv`` into the results' folder. Returns what ``result.json`` holds, and the metrics.

    Raises:
        InputError: no or a wrong checkpoint, a manifest with other classes, no readable clip.
    """
    keep_freed_memory()
    checkpoint = load_checkpoint(source)
    config = checkpoint.config
    clips = test_clips(config, options, checkpoint.classes)
    packs = open_packs(config.data.pack if options.pack is None else options.pack, [clips])
    out = options.out or run_of(source) / "test" / f"{clips.source.stem}_{options.views}"
    config.data.workers = config.data.workers if options.workers is None else options.workers
    check_numbers(config, "test", LIMITS)
    config.training.precision = options.precision or config.training.precision  # type: ignore[assignment]
    config.training.device = options.device or "auto"  # type: ignore[assignment]
    fabric = build_fabric(config, log=False)
    model = load_model(checkpoint, str(source)).drop_auxiliary_heads().to_channels_last().to(fabric.device)

    images = options.views.segments * options.views.crops
    loader = DataLoader(
        ViewDataset(clips, config.data, options.views, open_original if packs is None else packs.open),
        max(1, IMAGES_AT_ONCE // images),
        collate_fn=collate_views,
        num_workers=config.data.workers,
        pin_memory=fabric.device.type == "cuda",
    )
    with clip_progress("test", len(clips)) as advance:
        scores, skipped = evaluate(
            model,
            loader,
            classes=clips.classes,
            stride=options.stride,
            batch_images=IMAGES_AT_ONCE,
            progress=lambda done: advance(done, ""),
            autocast=fabric.autocast,
        )
    metrics = measure(scores.scores, scores.labels, clips.classes)
    out.mkdir(parents=True, exist_ok=True)
    write_scores(out / "scores.npz", scores)
    write_tables(out, metrics, clips.classes)
    (out / "skipped.csv").unlink(missing_ok=True)  # of an earlier test
    if skipped:
        write_skipped(out / "skipped.csv", skipped)
    result = {
        **metrics.summary(),
        "skipped": len(skipped),
        "views": str(options.views),
        "manifest": str(clips.source),
        "checkpoint": str(source),
        "scores": str(out / "scores.npz"),
    }
    write_json(out / "result.json", result)
    return result, metrics


def test_clips(config: Config, options: TestOptions, classes: list[str]) -> Manifest:
    """The clips to test, with the checkpoint's classes."""
    manifest = options.manifest or config.data.test or config.data.val
    if manifest is None:
        raise InputError("test: which clips? name their manifest with --manifest")
    root = options.root or (Path(config.data.root) if config.data.root and options.manifest is None else None)
    return read_manifest(Path(manifest), root=root, classes=classes)


def run_of(source: Path) -> Path:
    """The run's folder of a checkpoint or of itself."""
    if source.is_dir():
        return source
    return source.parent.parent if source.parent.name == "checkpoints" else source.parent


def write_tables(out: Path, metrics: Metrics, classes: tuple[str, ...]) -> None:
    """per_class.csv and confusion.csv (rows: the true class)."""
    with (out / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "clips", "correct", "confused_with", "confused"])
        writer.writerows([c.name, c.clips, c.correct, c.confused_with, c.confused] for c in metrics.per_class)
    with (out / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true class", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, metrics.confusion.tolist(), strict=True))
