"""The ``kinet`` command.

Progress goes to stderr, results to stdout. Exit code 0 is success, 2 wrong use or input (one line says what), 1 an
internal error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

import kinet
from kinet.errors import InputError

WRONG_USE = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Reports wrong use in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        parsed, rest = build_parser().parse_known_args(arguments)
        if rest and parsed.command not in (train, teach, info):
            raise InputError(f"unknown argument {rest[0]!r} (see kinet {parsed.name} --help)")
        parsed.overrides = rest
        parsed.command(parsed)
    except InputError as error:
        print(f"kinet: {error}", file=sys.stderr)
        return WRONG_USE
    except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:  # a wrong path given
        print(f"kinet: {error.filename}: {error.strerror}; give another path", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("kinet: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def build_parser() -> Parser:
    """All commands. Those that take a config leave ``--key value`` pairs to it."""
    parser = Parser(prog="kinet", description=kinet.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kinet {kinet.__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=Parser)

    sub = commands.add_parser("demo", help="train and test TSN and KINet on a small generated set", allow_abbrev=False)
    sub.add_argument("--out", type=Path, default=Path("demo"), help="folder for clips, runs and report.html (demo)")
    sub.add_argument("--seed", type=int, default=0)
    sub.set_defaults(command=demo)

    sub = commands.add_parser("manifest", help="index a folder of clips", allow_abbrev=False)
    sub.add_argument("source", choices=("folder", "frames"), help="videos, or folders of images: DIR/<class>/<clip>")
    sub.add_argument("folder", type=Path, metavar="DIR")
    sub.add_argument("out", type=Path, metavar="OUT.csv")
    sub.add_argument("--list", type=Path, help="csv with the columns class,video_name: the clips to keep")
    sub.add_argument("--hold-out", type=float, metavar="SHARE", help="write this share of each class to OUT_val.csv")
    sub.set_defaults(command=manifest)

    sub = commands.add_parser("pack", help="store clips and their labels for fast random access", allow_abbrev=False)
    sub.add_argument("manifest", type=Path, metavar="MANIFEST")
    sub.add_argument("out", type=Path, metavar="OUT", help="a new folder, or a pack to go on with or to add clips to")
    sub.add_argument("--root", type=Path, help="what the manifest's paths are relative to (default: its folder)")
    sub.add_argument("--human", metavar="T", help="label with this teacher: its file, or a config that names it")
    sub.add_argument("--scene", metavar="T")
    sub.add_argument("--format", choices=("jpeg", "h264"), default="jpeg", help="h264: slower, a third of the bytes")
    sub.add_argument("--quality", type=int, help="jpeg: 1 to 100, best is 100 (90); h264: 0 to 51, best is 0 (18)")
    sub.add_argument("--short-side", type=int, default=256, help="reduce larger frames to it, in pixels (256)")
    sub.add_argument("--fps", type=float, help="frames a second kept of clips that have more (default: all)")
    sub.add_argument("--shard-mb", type=float, default=256, help="megabytes after which a new tar file begins (256)")
    sub.add_argument("--workers", type=int, help="encoding processes (default: one a core)")
    sub.add_argument("--verify", action="store_true", help="then read the whole pack back and compare checksums")
    sub.set_defaults(command=pack)

    sub = commands.add_parser(
        "train",
        help="train TSN or KINet",
        epilog="Any key of the config can follow as --key value, for example --training.lr 0.005 --out runs/mine",
        allow_abbrev=False,
    )
    sub.add_argument("config", type=Path, metavar="CONFIG")
    sub.add_argument("--resume", metavar="auto|CHECKPOINT", help="go on with the run in its folder, or a checkpoint")
    sub.set_defaults(command=train)

    sub = commands.add_parser(
        "teach",
        help="train a teacher: human (parsing) or scene",
        epilog="Any key of the config can follow as --key value, for example --training.epochs 40 --out runs/mine",
        allow_abbrev=False,
    )
    sub.add_argument("task", choices=("human", "scene"))
    sub.add_argument("config", type=Path, metavar="CONFIG")
    sub.add_argument("--resume", metavar="auto|CHECKPOINT", help="go on with the run in its folder, or a checkpoint")
    sub.set_defaults(command=teach)

    sub = commands.add_parser("test", help="test a run or a checkpoint", allow_abbrev=False)
    sub.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT")
    sub.add_argument("--views", default="25x10", help="SEGMENTSxCROPS, crops 1, 2, 5 or 10 (25x10)")
    sub.add_argument("--manifest", type=Path, help="the clips (default: the run's data.test, else data.val)")
    sub.add_argument("--root", type=Path, help="what the manifest's paths are relative to (default: its folder)")
    sub.add_argument(
        "--pack", action="append", metavar="DIR", help="read from this pack; none: from the original files"
    )
    sub.add_argument("--out", type=Path, help="folder for scores and tables (default: in the run's folder)")
    sub.add_argument("--stride", type=int, default=1, help="segments from one window to the next (1)")
    sub.add_argument("--workers", type=int, help="loading processes (default: the run's)")
    sub.add_argument("--precision", choices=("auto", "bf16-mixed", "32-true"), help="default: the run's")
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    sub.set_defaults(command=test)

    sub = commands.add_parser("fuse", help="fuse the scores of several tests, such as RGB and flow", allow_abbrev=False)
    sub.add_argument(
        "scores", type=Path, nargs="+", metavar="SCORES.npz", help="two or more, as kinet test writes them"
    )
    sub.add_argument("--weights", type=float, nargs="+", help="one a file (default: equal)")
    sub.add_argument("--out", type=Path, default=Path("fused"), help="folder for scores and tables (fused)")
    sub.set_defaults(command=fuse)

    sub = commands.add_parser(
        "info", help="parameters and FLOPs of a config's network, part by part", allow_abbrev=False
    )
    sub.add_argument("config", type=Path, metavar="CONFIG")
    sub.add_argument("--classes", type=int, default=400, help="number of actions (400)")
    sub.add_argument("--json", action="store_true", help="print JSON instead of tables")
    sub.set_defaults(command=info)
    return parser


def demo(options: argparse.Namespace) -> None:
    from kinet.demo import run_demo

    print(json.dumps(run_demo(options.out, seed=options.seed)))


def manifest(options: argparse.Namespace) -> None:
    from kinet.data.manifest import hold_out, index_folder, index_frames, write_manifest

    index = index_folder if options.source == "folder" else index_frames
    rows = index(options.folder, options.list)
    result = {"manifest": str(options.out), "root": str(options.folder), "classes": len({label for _, label in rows})}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.hold_out is not None:
        rows, held = hold_out(rows, options.hold_out)
        val = options.out.with_name(f"{options.out.stem}_val.csv")
        write_manifest(val, held)
        result |= {"val": str(val), "val_clips": len(held)}
    write_manifest(options.out, rows)
    result["clips"] = len(rows)
    if options.out.parent.resolve() != options.folder.resolve():
        print(f"paths are relative to {options.folder}: give it as data.root", file=sys.stderr)
    print(json.dumps(result))


def pack(options: argparse.Namespace) -> None:
    from kinet.data.pack_codec import QUALITY, PackSettings
    from kinet.packing import PackOptions, run_pack

    quality = QUALITY[options.format][2] if options.quality is None else options.quality
    result = run_pack(
        options.manifest,
        options.out,
        PackSettings(options.format, quality, options.short_side, options.fps),
        PackOptions(
            root=options.root,
            human=options.human,
            scene=options.scene,
            shard_mb=options.shard_mb,
            workers=options.workers,
            verify=options.verify,
        ),
    )
    print(json.dumps(result))


def train(options: argparse.Namespace) -> None:
    from kinet.config import load_config
    from kinet.training.engine import train as run_training

    print(json.dumps(run_training(load_config(options.config, options.overrides), resume=options.resume)))


def teach(options: argparse.Namespace) -> None:
    from kinet.teachers.teach import teach as run_teaching
    from kinet.teachers.teach_config import load_teach_config

    config = load_teach_config(options.task, options.config, options.overrides)
    print(json.dumps(run_teaching(config, resume=options.resume)))


def test(options: argparse.Namespace) -> None:
    from kinet.evaluation.metrics import per_class_table
    from kinet.evaluation.protocol import parse_views
    from kinet.evaluation.run_test import TestOptions, run_test

    result, metrics = run_test(
        options.source,
        TestOptions(
            views=parse_views(options.views),
            manifest=options.manifest,
            root=options.root,
            pack=[] if options.pack == ["none"] else options.pack,
            out=options.out,
            stride=options.stride,
            workers=options.workers,
            precision=options.precision,
            device=options.device,
        ),
    )
    Console(stderr=True).print(per_class_table(metrics))
    print(json.dumps(result))


def fuse(options: argparse.Namespace) -> None:
    from kinet.evaluation.fusion import run_fusion
    from kinet.evaluation.metrics import per_class_table

    result, metrics = run_fusion(options.scores, options.weights, options.out)
    Console(stderr=True).print(per_class_table(metrics))
    print(json.dumps(result))


def info(options: argparse.Namespace) -> None:
    from kinet.config import load_config
    from kinet.info import print_info

    if options.classes < 1:
        raise InputError(f"--classes {options.classes}: give the number of actions, 1 or more")
    print_info(load_config(options.config, options.overrides), options.classes, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
