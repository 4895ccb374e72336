"""This project and mmaction2 on the same real files in one run, in turn: decoding, packed clips, preprocessing.

    python benchmarks/data.py PEER_PYTHON PEER_SCRIPT DATA [--draws 7] [--clips 20] [--rounds 20] [--out FOLDER]

PEER_PYTHON is the python of an environment with mmaction2, PEER_SCRIPT has its pipelines, DATA holds ``long_gop/*.mp4``
and ``ucf101_samples/*.avi``. Every run goes to data_raw.json and the ratios, mmaction2's time over ours, to data.json.
What is measured, and how, is in README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sides import Side

from kinet.data.manifest import write_manifest
from kinet.training.run_folder import write_json

HERE = Path(__file__).resolve().parent
STUDIES = HERE.parent / "studies"
FILES = {"h264": "long_gop/kinetics*.mp4", "720p": "long_gop/h264_1280x720.mp4", "avi": "ucf101_samples/*.avi"}
FRAMES = (3, 25)
PACKS = {"packed": [], "compact": ["--format", "h264"]}
"""What is given to ``kinet pack``."""
SIZES = {"340": (256, 340), "720p": (720, 1280)}
PARTS = ("uint8", "whole")
"""Of preprocessing: up to what a worker hands over, and up to the network's normalised input."""
AS_SHIPPED, MEMORY_KEPT = "as_shipped", "memory_kept"
REPETITIONS = 20
"""Of preprocessing before it is the other side's turn."""
PACKAGES = {
    "kinet": ["kinet-action", "av", "torch", "numpy", "simplejpeg"],
    "mmaction2": ["mmaction2", "mmengine", "mmcv-lite", "decord", "torch", "numpy", "opencv-python"],
}
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer_python", type=Path)
    parser.add_argument("peer_script", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=7, help="of frames from each file (7)")
    parser.add_argument("--clips", type=int, default=20, help="avi files, spread evenly over the folder's (20)")
    parser.add_argument("--rounds", type=int, default=20, help=f"of {REPETITIONS} times preprocessing a side (20)")
    parser.add_argument("--no-packs", action="store_true", help="leave out kinet pack")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results (results)")
    options = parser.parse_args()

    device = describe_device()
    with tempfile.TemporaryDirectory() as folder:
        files = copy_files(options.data, options.clips, Path(folder))
        packs = {} if options.no_packs else make_packs(files, Path(folder))
        with start_ours() as ours, start_peer(options) as theirs:
            versions = {side.name: side.ask("versions", packages=PACKAGES[side.name]) for side in (ours, theirs)}
            decoding = list(measure_decoding(ours, theirs, files, packs, options.draws))
            preprocessing = {AS_SHIPPED: measure_preprocessing(ours, theirs, options.rounds)}
            opening = {name: ours.ask("pack_opening_ms", pack=str(pack)) for name, pack in packs.items()}
        with start_ours() as ours, start_peer(options) as theirs:
            if ours.ask("keep_memory") and theirs.ask("keep_memory"):
                preprocessing[MEMORY_KEPT] = measure_preprocessing(ours, theirs, options.rounds)
        sizes = {name: pack_sizes(pack, files) for name, pack in packs.items()}
    device["load_at_end"] = os.getloadavg()

    raw = {
        "device": device,
        "versions": versions,
        "options": {"draws": options.draws, "clips": options.clips, "rounds": options.rounds, "packs": PACKS},
        "cpu_ratios": decoding_ratios(decoding, "cpu_ms") | preprocessing_ratios(preprocessing, "cpu_ms"),
        "thumbnails_differ_by": differences(decoding),
        "pack_opening_ms": opening,
        "pack_bytes": sizes,
        "decoding": [{key: value for key, value in run.items() if key != "differences"} for run in decoding],
        "preprocessing": preprocessing,
    }
    ratios = (
        decoding_ratios(decoding, "ms")
        | preprocessing_ratios(preprocessing, "ms")
        | {f"{name}_bytes_ratio": round(size["all"], 3) for name, size in sizes.items()}
        | from_studies()
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "data_raw.json").write_text(json.dumps(raw) + "\n")
    write_json(options.out / "data.json", ratios)
    print(json.dumps(ratios, indent=2))


def start_ours() -> Side:
    return Side("kinet", [sys.executable, HERE / "data_kinet.py"])


def start_peer(options: argparse.Namespace) -> Side:
    return Side("mmaction2", [options.peer_python, HERE / "data_mmaction2.py", options.peer_script])


def copy_files(data: Path, clips: int, folder: Path) -> dict[str, list[Path]]:
    """Copies by kind; being copies, their modification times may be changed."""
    copies = {}
    for kind, pattern in FILES.items():
        found = sorted(data.glob(pattern))
        if not found:
            sys.exit(f"{data}: no {pattern}")
        if kind == "avi":
            found = found[:: max(1, len(found) // clips)][:clips]
        (folder / kind).mkdir()
        copies[kind] = [Path(shutil.copy(path, folder / kind)) for path in found]
    return copies


def make_packs(files: dict[str, list[Path]], folder: Path) -> dict[str, Path]:
    """Pack all files once for each of ``PACKS``."""
    manifest = folder / "clips.csv"
    write_manifest(manifest, [(clip_name(path), kind) for kind, paths in files.items() for path in paths])
    packs = {name: folder / name for name in PACKS}
    for name, arguments in PACKS.items():
        command = [sys.executable, "-m", "kinet.cli", "pack", manifest, packs[name], *arguments]
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    return packs


def clip_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def measure_decoding(
    ours: Side, theirs: Side, files: dict[str, list[Path]], packs: dict[str, Path], draws: int
) -> Iterator[Run]:
    """mmaction2 draws frames and reads them, then this project reads the same ones, in every way it can.

    Each file is read once by each before anything counts, so that it lies in the system's cache for both.
    """
    for kind, paths in files.items():
        for path in paths:
            for frames in FRAMES:
                for draw in range(-1, draws):
                    run = decode_once(ours, theirs, path, frames, draw + 1, packs)
                    if draw >= 0:
                        yield {"kind": kind, "file": path.name, "frames": frames, "draw": draw, **run}
            print(f"{time.strftime('%H:%M:%S')} decoded {clip_name(path)}", file=sys.stderr)


def decode_once(ours: Side, theirs: Side, path: Path, frames: int, seed: int, packs: dict[str, Path]) -> Run:
    peer = theirs.ask("decode", path=str(path), frames=frames, seed=seed)
    same = {"indices": peer["indices"], "seed": seed}
    answers = {
        "decode": ours.ask("decode", path=str(path), cold=True, **same),
        "decode_again": ours.ask("decode", path=str(path), cold=False, **same),
    }
    for name, pack in packs.items():
        answers[name] = ours.ask("packed", pack=str(pack), name=clip_name(path), **same)
    return {
        "indices": peer["indices"],
        "mmaction2": without_thumbnails(peer),
        **{name: without_thumbnails(answer) for name, answer in answers.items()},
        "differences": {name: difference(answer, peer) for name, answer in answers.items()},
    }


def without_thumbnails(answer: Run) -> dict[str, float]:
    return {"ms": round(answer["ms"], 3), "cpu_ms": round(answer["cpu_ms"], 3)}


def difference(one: Run, other: Run) -> float:
    """Of the frame in which the two differ most: the mean difference, of 255 levels, at 8 x 8 pixels."""
    return max(
        statistics.fmean(abs(a - b) for a, b in zip(flat(first), flat(second), strict=True))
        for first, second in zip(one["thumbnails"], other["thumbnails"], strict=True)
    )


def flat(image: list[list[list[float]]]) -> list[float]:
    return [level for row in image for pixel in row for level in pixel]


def measure_preprocessing(ours: Side, theirs: Side, rounds: int) -> Run:
    """Times by size, side, part and clock; the first round does not count."""
    times: Run = {}
    for name, (height, width) in SIZES.items():
        times[name] = {side.name: {part: {"ms": [], "cpu_ms": []} for part in PARTS} for side in (theirs, ours)}
        for seed in range(rounds + 1):
            for side in (theirs, ours):
                answers = side.ask("preprocess", height=height, width=width, seed=seed, repetitions=REPETITIONS)
                for answer in answers if seed else ():
                    for part in PARTS:
                        for clock, measured in times[name][side.name][part].items():
                            measured.append(round(answer[part][clock], 4))
    print(f"{time.strftime('%H:%M:%S')} preprocessed", file=sys.stderr)
    return times


def decoding_ratios(runs: Sequence[Run], clock: str) -> dict[str, float]:
    """mmaction2's time over ours: of each file the median over the draws, added up over the files of a kind."""
    ways = [way for way in ("decode", "decode_again", *PACKS) if way in runs[0]]
    ratios = {}
    for way in ways:
        for frames in FRAMES:
            for kind in FILES:
                of_kind = [run for run in runs if run["kind"] == kind and run["frames"] == frames]
                theirs, ours = (sum(medians(of_kind, side, clock)) for side in ("mmaction2", way))
                ratios[f"{way}{frames}_{kind}"] = significant(theirs / ours)
    return ratios


def medians(runs: Sequence[Run], side: str, clock: str) -> list[float]:
    names = {run["file"] for run in runs}
    return [statistics.median(run[side][clock] for run in runs if run["file"] == name) for name in sorted(names)]


def differences(runs: Sequence[Run]) -> dict[str, float]:
    """The largest by way of reading and kind of file."""
    return {
        f"{way}_{kind}": round(max(run["differences"][way] for run in runs if run["kind"] == kind), 2)
        for way in runs[0]["differences"]
        for kind in FILES
    }


def preprocessing_ratios(preprocessing: Run, clock: str) -> dict[str, float]:
    """Whole against whole; our part in a worker against its whole, and against its part in a worker."""
    ratios = {}
    for setting, sizes in preprocessing.items():
        for name, sides in sizes.items():
            theirs, ours = (
                {part: statistics.median(sides[side][part][clock]) for part in PARTS} for side in ("mmaction2", "kinet")
            )
            suffix = name if setting == AS_SHIPPED else f"{name}_{setting}"
            ratios[f"preprocess_{suffix}"] = significant(theirs["whole"] / ours["whole"])
            ratios[f"preprocess_uint8_{suffix}"] = significant(theirs["whole"] / ours["uint8"])
            ratios[f"preprocess_uint8_both_{suffix}"] = significant(theirs["uint8"] / ours["uint8"])
    return ratios


def pack_sizes(pack: Path, files: dict[str, list[Path]]) -> dict[str, float]:
    """The pack's bytes, the originals', and the one over the other."""
    packed = sum(file.stat().st_size for file in pack.rglob("*") if file.is_file())
    originals = sum(path.stat().st_size for paths in files.values() for path in paths)
    return {"packed": packed, "originals": originals, "all": packed / originals}


def from_studies() -> dict[str, Any]:
    """What other measurements of this repository found; left out where they have not been made."""
    found: dict[str, Any] = {}
    for file, keys in {
        STUDIES / "decoding" / "summary.json": ("bit_equal_clips",),
        STUDIES / "reliability" / "damaged.json": ("damaged_files", "damaged_crashes"),
    }.items():
        if not file.exists():
            print(f"{file} is not there: {', '.join(keys)} left out", file=sys.stderr)
            continue
        content = json.loads(file.read_text())
        found |= {key: content[key] for key in keys}
    return found


def significant(ratio: float) -> float:
    """Rounded to three digits."""
    return round(ratio, 2 - math.floor(math.log10(ratio)))


def describe_device() -> Run:
    cpu = next((line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_at_start": os.getloadavg(),
    }


def cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
