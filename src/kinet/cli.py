"""The ``kinet`` command.

Progress goes to stderr, results to stdout. Exit code 0 is success, 2 wrong use or input (one line says what), 75 a
training that was stopped and can go on, 1 an internal error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import kinet
from kinet import commands
from kinet.errors import InputError, Stopped

WRONG_USE = 2
INTERRUPTED = 130
STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: run the same again."""
GROUP_HELP = "ucf101, hmdb51, kinetics, or a regular expression whose first group is the source video"


class Parser(argparse.ArgumentParser):
    """Reports wrong use in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        parsed, rest = build_parser().parse_known_args(arguments)
        if rest and "config" not in parsed:
            raise InputError(f"unknown argument {rest[0]!r} (see kinet {parsed.name} --help)")
        parsed.overrides = rest
        parsed.command(parsed)
    except InputError as error:
        print(f"kinet: {error}", file=sys.stderr)
        return WRONG_USE
    except Stopped as stopped:
        print(f"kinet: {stopped}", file=sys.stderr)
        return STOPPED
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
    parsers = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=Parser)

    sub = parsers.add_parser("demo", help="train and test TSN and KINet on a small generated set", allow_abbrev=False)
    sub.add_argument("--out", type=Path, default=Path("demo"), help="folder for clips, runs and report.html (demo)")
    sub.add_argument("--seed", type=int, default=0)
    sub.set_defaults(command=commands.demo)

    sub = parsers.add_parser("manifest", help="index a data set's clips, or check manifests", allow_abbrev=False)
    add_manifest_commands(sub.add_subparsers(dest="source", required=True, metavar="SOURCE", parser_class=Parser))

    sub = parsers.add_parser("pack", help="store clips and their labels for fast random access", allow_abbrev=False)
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
    sub.set_defaults(command=commands.pack)

    sub = parsers.add_parser("scan", help="decode every clip of a manifest and report the bad ones", allow_abbrev=False)
    sub.add_argument("manifest", type=Path, metavar="MANIFEST")
    sub.add_argument("--root", type=Path, help="what the manifest's paths are relative to (default: its folder)")
    sub.add_argument("--out", type=Path, help="folder for the report (default: MANIFEST without .csv, then _scan)")
    sub.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one for each core)")
    sub.add_argument("--timeout", type=float, default=120, help="seconds that a clip may take (120)")
    sub.add_argument("--memory", type=int, default=2048, help="MB of memory that a clip may take (2048; Linux only)")
    sub.add_argument("--segments", type=int, default=3, help="a clip with fewer frames is short (3)")
    sub.add_argument("--good", type=Path, metavar="OUT.csv", help="write a manifest of the clips that can be read")
    sub.add_argument("--strict", action="store_true", help="keep suspect clips out of --good too")
    sub.set_defaults(command=commands.scan)

    sub = parsers.add_parser(
        "train",
        help="train TSN or KINet",
        epilog="Any key of the config can follow as --key value, for example --training.lr 0.005 --out runs/mine",
        allow_abbrev=False,
    )
    sub.add_argument("config", type=Path, metavar="CONFIG")
    sub.add_argument("--resume", metavar="auto|CHECKPOINT", help="go on with the run in its folder, or a checkpoint")
    sub.set_defaults(command=commands.train)

    sub = parsers.add_parser("teach", help="train a teacher, or check one on your clips", allow_abbrev=False)
    tasks = sub.add_subparsers(dest="task", required=True, metavar="human|scene|check", parser_class=Parser)
    for task, what in (("human", "parsing of people"), ("scene", "naming of scenes")):
        sub = tasks.add_parser(
            task,
            help=f"train a teacher: {what}",
            epilog="Any key of the config can follow as --key value, for example --training.epochs 40 --out runs/mine",
            allow_abbrev=False,
        )
        sub.add_argument("config", type=Path, metavar="CONFIG")
        sub.add_argument(
            "--resume", metavar="auto|CHECKPOINT", help="go on with the run in its folder, or a checkpoint"
        )
        sub.set_defaults(command=commands.teach)
    sub = tasks.add_parser("check", help="what one or two teachers say of a sample of clips", allow_abbrev=False)
    sub.add_argument("manifest", type=Path, metavar="MANIFEST")
    sub.add_argument(
        "--teacher",
        action="append",
        required=True,
        metavar="T",
        help="ONNX file, checkpoint, hf:..., hub:..., or a YAML file of a teacher's settings; twice to compare two",
    )
    sub.add_argument("--root", type=Path, help="what the manifest's paths are relative to (default: its folder)")
    sub.add_argument("--clips", type=int, default=64, help="clips in the sample (64)")
    sub.add_argument("--frames", type=int, default=2, help="frames of each (2)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", type=Path, default=Path("runs/teach_check"), help="folder (runs/teach_check)")
    sub.set_defaults(command=commands.teach_check, name="teach check")

    sub = parsers.add_parser("test", help="test a run or a checkpoint", allow_abbrev=False)
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
    sub.set_defaults(command=commands.test)

    sub = parsers.add_parser("fuse", help="fuse the scores of several tests, such as RGB and flow", allow_abbrev=False)
    sub.add_argument(
        "scores", type=Path, nargs="+", metavar="SCORES.npz", help="two or more, as kinet test writes them"
    )
    sub.add_argument("--weights", type=float, nargs="+", help="one a file (default: equal)")
    sub.add_argument("--out", type=Path, default=Path("fused"), help="folder for scores and tables (fused)")
    sub.set_defaults(command=commands.fuse)

    sub = parsers.add_parser(
        "ablate",
        help="train and test the rows of the paper's tables, over seeds",
        epilog="Any key of the config can follow as --key value. The same command goes on with a stopped study.",
        allow_abbrev=False,
    )
    sub.add_argument("config", type=Path, metavar="CONFIG", help="of a whole KINet; the rows leave parts of it out")
    sub.add_argument("--table", type=int, nargs="+", default=[1], metavar="1..4", help="the paper's tables (1)")
    sub.add_argument("--rows", nargs="+", default=[], help="train these rows alone, and the baseline")
    sub.add_argument("--seeds", type=int, default=3, help="trainings a row (3)")
    sub.add_argument("--views", default="25x10", help="SEGMENTSxCROPS (25x10)")
    sub.add_argument("--split", choices=("val", "test"), default="val", help="what accuracies are measured on (val)")
    sub.add_argument("--backbones", nargs="+", help="of table 3 (resnet50 bn_inception inception_v3)")
    sub.add_argument("--larger", metavar="BACKBONE", help="of table 2's larger TSN (default: the nearest ResNet)")
    sub.add_argument("--weights", nargs="+", default=[], metavar="BACKBONE=FILE", help="of backbones not the config's")
    sub.set_defaults(command=commands.ablate)

    sub = parsers.add_parser(
        "info", help="parameters and FLOPs of a config's network, part by part", allow_abbrev=False
    )
    sub.add_argument("config", type=Path, metavar="CONFIG")
    sub.add_argument("--classes", type=int, default=400, help="number of actions (400)")
    sub.add_argument("--json", action="store_true", help="print JSON instead of tables")
    sub.set_defaults(command=commands.info)
    return parser


def add_manifest_commands(sources: argparse._SubParsersAction[Parser]) -> None:
    """``kinet manifest SOURCE DIR OUT.csv`` for each kind of source, and ``kinet manifest check``."""
    for name, what in (
        ("folder", "videos by class: DIR/<class>/<video>"),
        ("frames", "folders of images by class: DIR/<class>/<clip>/<image>"),
        ("ucf101", "UCF-101 by its official split files"),
        ("hmdb51", "HMDB51 by its official split files"),
        ("kinetics", "Kinetics-400, 600 or 700 by its official csv files; lists what is missing"),
        ("something-v2", "Something-Something v2 by its official json files"),
        ("csv", "a csv file of your own"),
    ):
        sub = sources.add_parser(name, help=what, description=what, allow_abbrev=False)
        sub.add_argument("folder", type=Path, metavar="DIR", help="what the manifest's paths are relative to")
        sub.add_argument("out", type=Path, metavar="OUT.csv", help="further parts become OUT_val.csv, OUT_test.csv")
        if name in ("folder", "frames"):
            sub.add_argument("--list", type=Path, help="csv with the columns class,video_name: the clips to keep")
        if name in ("ucf101", "hmdb51"):
            sub.add_argument("--split", type=int, choices=(1, 2, 3), default=1, help="official split (1)")
        if name in ("ucf101", "hmdb51", "something-v2"):
            sub.add_argument("--lists", type=Path, metavar="FOLDER", help="official lists (default: in or beside DIR)")
        if name == "kinetics":
            sub.add_argument("--lists", type=Path, metavar="CSV", nargs="+", required=True, help="official csv files")
        if name == "csv":
            sub.add_argument("--list", type=Path, metavar="CSV", required=True, help="your csv file, with a header")
            sub.add_argument("--path-column", default="path", metavar="NAME", help="the clips' paths in DIR (path)")
            sub.add_argument("--label-column", default="label", metavar="NAME", help="the classes' names (label)")
            sub.add_argument("--separator", metavar="TEXT", help="clips have several labels, with this between them")
        sub.add_argument(
            "--hold-out", type=float, metavar="SHARE", help="write this share of each class to OUT_val.csv"
        )
        sub.add_argument("--group", metavar="RULE", help=f"keep clips of one source video together; {GROUP_HELP}")
        sub.set_defaults(command=commands.manifest)

    sub = sources.add_parser(
        "check",
        help="find what is twice, on both sides of a split, or missing",
        description="Find clips that are listed twice or have the same content, source videos on both sides of a "
        "split, classes that a manifest lacks, and files that are not there. Findings are warnings: the exit code "
        "is 0, and stdout counts them.",
        allow_abbrev=False,
    )
    sub.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST", help="all parts of a split")
    sub.add_argument("--root", type=Path, help="what the manifests' paths are relative to (default: their folders)")
    sub.add_argument("--group", metavar="RULE", help=f"finds source videos (default: what the names fit); {GROUP_HELP}")
    sub.add_argument("--no-files", dest="files", action="store_false", help="do not look at the clips, only at names")
    sub.add_argument("--out", type=Path, help="csv of the findings (default: beside the first manifest, _check.csv)")
    sub.set_defaults(command=commands.manifest_check)


if __name__ == "__main__":
    sys.exit(main())
