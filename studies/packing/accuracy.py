"""Does training on packed frames keep the accuracy? TSN on ut_interaction, from originals and two packs, over seeds.

    python studies/packing/accuracy.py --shared FOLDER [--seeds 3] [--epochs 8] [--out DIR]

FOLDER holds data/ut_interaction, data/ut_interaction_groups.csv and weights. Six of the twenty sequences validate. A
seed draws the same frames and crops from every source, so that runs differ by the frames' coding alone. Packs and runs
go into runs/packing_study; the command may be interrupted, and goes on. Into DIR (default: beside this file) it writes
one JSON a run, and summary.json over the runs that are there.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from kinet.config import load_config
from kinet.data.manifest import read_manifest, write_manifest
from kinet.data.pack_codec import QUALITY, PackSettings
from kinet.data.pack_writer import pack_clips
from kinet.evaluation.protocol import parse_views
from kinet.evaluation.run_test import TestOptions, run_test
from kinet.training.engine import train
from kinet.training.run_folder import write_json

HERE = Path(__file__).resolve().parent
RUNS = Path("runs/packing_study")
VALIDATION = ("seq06", "seq08", "seq14", "seq16", "seq18", "seq20")
"""Sequences 06 and 08 belong on one side."""
VIEWS = "8x2"
SOURCES = ("original", "jpeg", "h264")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_splits(options.shared / "data")
    sizes = make_packs(options.shared / "data")
    for seed in range(options.seeds):
        for source in SOURCES:
            run(source, seed, options)
            summarise(options.out, sizes)


def write_splits(data: Path) -> None:
    """train.csv and val.csv by the sequences that clips were cut from; the list names clips that are not there."""
    with (data / "ut_interaction_groups.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (data / row["path"]).is_file()]
    for name, held in (("train", False), ("val", True)):
        part = [(row["path"], row["class"]) for row in rows if (row["group"] in VALIDATION) == held]
        write_manifest(RUNS / f"{name}.csv", part)


def make_packs(data: Path) -> dict[str, float]:
    """Pack both splits in both formats; returns each pack's bytes as a multiple of the originals'."""
    sizes = {}
    for source in SOURCES[1:]:
        settings = PackSettings(source, QUALITY[source][2])  # type: ignore[arg-type]
        originals = 0
        for split in ("train", "val"):
            clips = read_manifest(RUNS / f"{split}.csv", root=data)
            report = pack_clips(clips, RUNS / source, settings, shard_bytes=10**8, workers=1)
            originals += sum(clip.path.stat().st_size for clip in clips)
        sizes[source] = report.bytes / originals
    return sizes


def run(source: str, seed: int, options: argparse.Namespace) -> None:
    """Train and test one network; skipped if its JSON is there."""
    result_file = options.out / f"{source}_seed{seed}.json"
    if result_file.exists():
        return
    folder = RUNS / f"{source}_seed{seed}_{options.epochs}epochs"
    settings: dict[str, Any] = {
        "out": folder,
        "model.weights": options.shared / "weights/mobilenet_v2-b0353104.pth",
        "data.train": RUNS / "train.csv",
        "data.val": RUNS / "val.csv",
        "data.root": options.shared / "data",
        "training.seed": seed,
        "training.epochs": options.epochs,
    }
    if source != "original":
        settings["data.pack"] = RUNS / source
    arguments = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    trained = train(load_config(HERE / "tsn.yaml", arguments), resume="auto")
    # the last epoch, not the best: the validation clips are what is reported, so they choose nothing
    tested, _ = run_test(folder / "checkpoints/last.pt", TestOptions(parse_views(VIEWS), device="cpu"))
    result = {
        "source": source,
        "seed": seed,
        "epochs": trained["epochs"],
        "train_seconds": trained["seconds"],
        "train_clips": trained["clips"],
        "skipped": trained["skipped"] + tested["skipped"],
        "val_clips": tested["videos"],
        **{key: round(tested[key], 2) for key in ("top1", "mean_class")},
    }
    write_json(result_file, result)


def summarise(out: Path, sizes: dict[str, float]) -> None:
    """summary.json: means and standard deviations over seeds, in per cent, and each pack's difference to originals.

    The difference is taken seed by seed; its standard error says how much of it is chance.
    """
    summary: dict[str, Any] = {"views": VIEWS}
    top1: dict[str, dict[int, float]] = {}
    for source in SOURCES:
        results = [json.loads(path.read_text()) for path in sorted(out.glob(f"{source}_seed*.json"))]
        if not results:
            continue
        top1[source] = {result["seed"]: result["top1"] for result in results}
        summary[f"{source}_seeds"] = len(results)
        summary[f"{source}_val_top1"] = round(statistics.mean(top1[source].values()), 2)
        summary[f"{source}_val_top1_std"] = spread(list(top1[source].values()))
        summary[f"{source}_train_seconds"] = round(statistics.mean(result["train_seconds"] for result in results), 1)
        if source in sizes:
            summary[f"{source}_bytes_ratio"] = round(sizes[source], 2)
            both = [top1[source][seed] - top1["original"][seed] for seed in top1[source] if seed in top1["original"]]
            summary[f"{source}_minus_original"] = round(statistics.mean(both), 2)
            summary[f"{source}_minus_original_standard_error"] = round(spread(both) / len(both) ** 0.5, 2)
    write_json(out / "summary.json", summary)


def spread(values: list[float]) -> float:
    return round(statistics.stdev(values), 2) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
