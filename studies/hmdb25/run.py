"""TSN and KINet with MobileNetV2 on the 25 classes of HMDB51: trained on train.csv, tested on val.csv, over seeds.

    python studies/hmdb25/run.py --shared FOLDER [--seeds 3] [--jobs 2]

FOLDER holds data/hmdb25, data/hmdb25_splits and weights. Runs go into runs/hmdb25_study, which may be interrupted: the
same command goes on. Beside this file it writes one JSON a run, and summary.json over the runs that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RUNS = Path("runs/hmdb25_study")
VIEWS = ("8x2",)
"""All frames and their mirror images."""
KINET = [sys.executable, "-m", "kinet.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    options = parser.parse_args()
    for split in ("train", "val"):
        listed = options.shared / "data/hmdb25_splits" / f"{split}.csv"
        kinet("manifest", "frames", options.shared / "data/hmdb25", RUNS / f"{split}.csv", "--list", listed)
    jobs = [(kind, seed) for seed in range(options.seeds) for kind in ("kinet", "tsn")]
    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(lambda job: run(*job, options.shared), jobs):
            summarise()


def run(kind: str, seed: int, shared: Path) -> None:
    """Train and test one network; skipped if its JSON is there."""
    result_file = HERE / f"{kind}_seed{seed}.json"
    if result_file.exists():
        return
    folder = RUNS / f"{kind}_seed{seed}"
    weights = shared / "weights"
    settings: dict[str, Any] = {
        "out": folder,
        "model.weights": weights / "mobilenet_v2-b0353104.pth",
        "data.train": RUNS / "train.csv",
        "data.val": RUNS / "val.csv",
        "data.root": shared / "data/hmdb25",
        "training.seed": seed,
    }
    if kind == "kinet":
        settings["teachers.human.path"] = weights / "person_prisma.onnx"
        settings["teachers.scene.path"] = weights / "scene_squeezenet_places365.onnx"
        settings["teachers.scene.class_names"] = weights / "categories_places365.txt"
    overrides = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    trained = kinet("train", ROOT / f"configs/hmdb25/{kind}_mobilenetv2.yaml", "--resume", "auto", *overrides)
    # the last epoch, not the best: val.csv is what is reported, so it chooses nothing
    last = folder / "checkpoints/last.pt"
    clips = ("--manifest", RUNS / "val.csv", "--root", shared / "data/hmdb25")
    tests = {views: kinet("test", last, "--views", views, *clips) for views in VIEWS}
    environment = json.loads((folder / "environment.json").read_text())
    result = {
        "network": kind,
        "seed": seed,
        "config": f"configs/hmdb25/{kind}_mobilenetv2.yaml",
        "train_seconds": trained["seconds"],
        "epochs": trained["epochs"],
        "skipped": trained["skipped"],
        "val": {
            views: {key: round(test[key], 2) for key in ("top1", "top5", "mean_class")} for views, test in tests.items()
        },
        "epoch_log": epochs_of(folder / "metrics.jsonl"),
        **{key: environment[key] for key in ("versions", "python", "cores", "threads", "gpu")},
    }
    result_file.write_text(json.dumps(result, indent=2) + "\n")


def kinet(*arguments: object) -> dict[str, Any]:
    """Run a command on one thread; returns the JSON line that it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*KINET, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def epochs_of(log: Path) -> list[dict[str, float]]:
    """The rows of the epochs, rounded."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [{key: round(value, 4) for key, value in row.items()} for row in rows if "epoch" in row]


def summarise() -> None:
    """summary.json: mean and standard deviation over the seeds, in per cent; seconds of training a run."""
    summary: dict[str, float] = {}
    for kind in ("tsn", "kinet"):
        results = [json.loads(path.read_text()) for path in sorted(HERE.glob(f"{kind}_seed*.json"))]
        if not results:
            continue
        summary[f"{kind}_seeds"] = len(results)
        summary[f"{kind}_train_seconds"] = round(statistics.mean(r["train_seconds"] for r in results), 1)
        for views in VIEWS:
            suffix = "" if views == VIEWS[0] else f"_{views}"
            for key in ("top1", "top5", "mean_class"):
                values = [result["val"][views][key] for result in results]
                summary[f"{kind}_val_{key}{suffix}"] = round(statistics.mean(values), 2)
                summary[f"{kind}_val_{key}{suffix}_std"] = (
                    round(statistics.stdev(values), 2) if len(values) > 1 else 0.0
                )
    (HERE / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
