"""What reading frames costs, in time and bytes: from original clips, from packs, and from video containers.

    python benchmarks/pack_formats.py --shared FOLDER [--clips 4] [--reps 9] [--peer PYTHON SCRIPT]

FOLDER holds data/long_gop and data/ucf101_samples. PYTHON and SCRIPT are an environment with mmaction2 and a script
whose ``data VIDEO`` prints its decoding times; its runs stand before and behind ours. One process, one thread, files
in the page cache; every format reads the same frames in turn, and the median over clips and repetitions counts.
Writes results/pack_formats.json and .md beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from kinet.data.manifest import Clip, Manifest, read_manifest, write_manifest
from kinet.data.pack import Packs
from kinet.data.pack_codec import PackSettings, reduce
from kinet.data.pack_writer import pack_clips
from kinet.data.sampling import test_indices, train_indices
from kinet.data.video import open_clip
from kinet.training.run_folder import write_json

RESULTS = Path(__file__).resolve().parent / "results"
SHORT_SIDE = 256
RATE = 25
"""Frames a second that the containers state."""
PACKS = {
    "pack, JPEG 90 (default)": PackSettings("jpeg", 90),
    "pack, JPEG 75": PackSettings("jpeg", 75),
    "pack, H.264 18 (compact)": PackSettings("h264", 18),
    "pack, H.264 23": PackSettings("h264", 23),
}
X264 = {"preset": "faster", "crf": "18", "x264-params": "bframes=0:scenecut=0:ref=1:threads=1"}
CONTAINERS: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "H.264 18, group of 4, in mp4": (".mp4", "libx264", 4, X264),
    "H.264 18, group of 12, in mp4": (".mp4", "libx264", 12, X264),
    "MJPEG in mkv": (".mkv", "mjpeg", 1, {"qmin": "3", "qmax": "3", "threads": "1"}),
}
"""Suffix, codec, frames a group, options; read by PyAV, which seeks to the keyframe before."""
DEFAULT, COMPACT = "pack, JPEG 90 (default)", "pack, H.264 18 (compact)"
Read = Callable[[Clip, Sequence[int]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=4, help="avi clips (4)")
    parser.add_argument("--reps", type=int, default=9, help="repetitions a clip (9)")
    parser.add_argument(
        "--groups", nargs="+", default=["h264", "720p", "avi"], metavar="GROUP", help="some of the files"
    )
    parser.add_argument("--peer", nargs=2, metavar=("PYTHON", "SCRIPT"))
    options = parser.parse_args()
    data = options.shared / "data"
    groups = {
        "h264": sorted((data / "long_gop").glob("kinetics*.mp4")),
        "720p": sorted((data / "long_gop").glob("h264_1280*.mp4")),
        "avi": sorted((data / "ucf101_samples").glob("*.avi"))[: options.clips],
    }
    results: dict[str, Any] = {"python": platform.python_version(), "pyav": av.__version__, "reps": options.reps}
    results["groups"] = {}
    for name in options.groups:
        with tempfile.TemporaryDirectory() as folder:
            results["groups"][name] = measure_group(groups[name], Path(folder), options.reps, options.peer)
    results["ratios"] = ratios(results["groups"])
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "pack_formats.json", results)
    (RESULTS / "pack_formats.md").write_text(table(results))
    print(table(results))


def measure_group(files: list[Path], folder: Path, reps: int, peer: list[str] | None) -> dict[str, Any]:
    """Times in ms, bytes as multiples of the originals', PSNR in dB to the original frames, encoding in ms a frame."""
    before = peer_times(files, peer) if peer else {}
    write_manifest(folder / "clips.csv", [(str(file), "clip") for file in files])
    clips = read_manifest(folder / "clips.csv")
    originals = sum(file.stat().st_size for file in files)
    formats: dict[str, dict[str, float]] = {"original": {"bytes": 1.0}}
    readers: dict[str, Read] = {"original": lambda clip, indices: open_clip(clip.path).read(indices)}
    for name, settings in PACKS.items():
        pack = folder / name
        report = pack_clips(clips, pack, settings, shard_bytes=10**9, workers=1)
        encode = 1e3 * report.seconds / report.frames
        formats[name] = {"bytes": report.bytes / originals, "encode_ms_a_frame": encode}
        packs = Packs([pack])
        readers[name] = lambda clip, indices, packs=packs: packs.open(clip).read(indices)  # type: ignore[misc]
    for name, (suffix, codec, group, codec_options) in CONTAINERS.items():
        start, paths = time.perf_counter(), {}
        for number, clip in enumerate(clips):
            paths[clip.name] = folder / f"{name}_{number}{suffix}"
            write_container(clip, paths[clip.name], codec, group, codec_options)
        frames = sum(len(open_clip(path)) for path in paths.values())
        encode = 1e3 * (time.perf_counter() - start) / frames
        size = sum(path.stat().st_size for path in paths.values())
        formats[name] = {"bytes": size / originals, "encode_ms_a_frame": encode}
        readers[name] = lambda clip, indices, paths=paths: read_container(paths[clip.name], indices)  # type: ignore[misc]
    times = {name: measure(readers, clips, frames, reps) for name, frames in (("ms_3", 3), ("ms_25", 25))}
    for name, format in formats.items():
        format |= {key: times[key][name] for key in times}
        if name != "original":
            format["psnr"] = statistics.mean(psnr(clip, readers[name]) for clip in clips)
    result: dict[str, Any] = {"files": [file.name for file in files], "formats": formats}
    if peer:
        after = peer_times(files, peer)
        result["mmaction2"] = {key: statistics.median(before[key] + after[key]) for key in before}
    return result


def measure(readers: dict[str, Read], clips: Manifest, frames: int, reps: int) -> dict[str, float]:
    """Median milliseconds from a clip's name to RGB frames: 3 random ones, or 25 uniform ones."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    rng = np.random.default_rng(0)
    for rep in range(reps + 1):
        for clip in clips:
            length = len(open_clip(clip.path))
            indices = train_indices(length, frames, rng) if frames == 3 else test_indices(length, frames)
            for name, read in readers.items():
                start = time.perf_counter()
                read(clip, indices.tolist())
                if rep:  # the first warms up
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def psnr(clip: Clip, read: Read) -> float:
    """Of every tenth frame, to the original at the pack's size."""
    source = open_clip(clip.path)
    numbers = range(0, len(source), 10)
    original = np.stack([reduce(frame, SHORT_SIDE) for frame in source.read(numbers)])
    frames = read(clip, numbers)
    height, width = frames.shape[1:3]  # containers of H.264 lose an odd row or column
    error = np.mean((original[:, :height, :width].astype(np.float32) - frames) ** 2)
    return float(10 * np.log10(255**2 / error))


def write_container(clip: Clip, path: Path, codec: str, group: int, options: dict[str, str]) -> None:
    """All frames of a clip, at the pack's size, as a video file; odd sides lose a row or column."""
    source = open_clip(clip.path)
    height, width = (side // 2 * 2 for side in reduce(source.read([0])[0], SHORT_SIDE).shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = group
        for start in range(0, len(source), 64):
            for frame in source.read(range(start, min(start + 64, len(source)))):
                small = np.ascontiguousarray(reduce(frame, SHORT_SIDE)[:height, :width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(small, "rgb24")))
        container.mux(stream.encode())


def read_container(path: Path, indices: Sequence[int]) -> np.ndarray:
    """Frames of a file of constant rate without B-frames: seek to the keyframe before each, decode up to it."""
    to_rgb, frames = VideoReformatter(), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        step = 1 / (Fraction(RATE) * stream.time_base)
        for index in indices:
            container.seek(round(index * step), stream=stream)
            frame = next(f for f in container.decode(stream) if round(f.pts / step) >= index)
            frames.append(to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray())
    return np.stack(frames)


def peer_times(files: list[Path], peer: list[str]) -> dict[str, list[float]]:
    """mmaction2's median milliseconds for 3 and 25 frames of each file."""
    times: dict[str, list[float]] = {"ms_3": [], "ms_25": []}
    for file in files:
        done = subprocess.run([*peer, "data", str(file)], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        times["ms_3"].append(found["train3_decode"]["median_ms"])
        times["ms_25"].append(found["test25_decode"]["median_ms"])
    return times


def ratios(groups: dict[str, Any]) -> dict[str, float]:
    """mmaction2's time over ours, and the compact pack's bytes over the original's."""
    found = {}
    for name, group in groups.items():
        for pack, what in ((DEFAULT, "packed"), (COMPACT, "compact")):
            if "mmaction2" in group:
                for key in ("3", "25"):
                    ours = group["formats"][pack][f"ms_{key}"]
                    found[f"{what}{key}_{name}"] = round(group["mmaction2"][f"ms_{key}"] / ours, 1)
            found[f"{what}_bytes_{name}"] = round(group["formats"][pack]["bytes"], 2)
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown: one table a group."""
    lines = []
    for name, group in results["groups"].items():
        lines += [f"### {name}: {len(group['files'])} clips", ""]
        lines += ["| | 3 random frames, ms | 25 uniform, ms | bytes / original's | PSNR, dB | encoding, ms a frame |"]
        lines += ["|---|---|---|---|---|---|"]
        if "mmaction2" in group:
            peer = group["mmaction2"]
            lines += [f"| mmaction2, decord | {peer['ms_3']:.0f} | {peer['ms_25']:.0f} | 1 | | |"]
        for format, row in group["formats"].items():
            quality = f"{row['psnr']:.1f}" if "psnr" in row else ""
            encode = f"{row['encode_ms_a_frame']:.1f}" if "encode_ms_a_frame" in row else ""
            lines += [
                f"| {format} | {row['ms_3']:.1f} | {row['ms_25']:.1f} | {row['bytes']:.2f} | {quality} | {encode} |"
            ]
        lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
