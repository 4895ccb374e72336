"""What each ``kinet`` command does: it takes the parsed arguments, and prints one line of JSON to stdout.

Imports stand inside, so that a command loads what it needs alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from kinet.errors import InputError

if TYPE_CHECKING:
    from kinet.data.sources.listing import Listing


def demo(options: argparse.Namespace) -> None:
    from kinet.demo import run_demo

    print(json.dumps(run_demo(options.out, seed=options.seed)))


def manifest(options: argparse.Namespace) -> None:
    from kinet.data.groups import group_rule
    from kinet.data.sources.listing import write_listing

    rule = None if options.group is None else group_rule(options.group)
    listing = list_source(options)
    result = write_listing(listing, options.out, share=options.hold_out, rule=rule) | {"root": str(options.folder)}
    if listing.missing:
        print(f"{len(listing.missing)} listed clips are missing: see {result['missing_by_class']}", file=sys.stderr)
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


def list_source(options: argparse.Namespace) -> Listing:
    from kinet.data.sources.folder import index_folder, index_frames
    from kinet.data.sources.hmdb51 import hmdb51
    from kinet.data.sources.kinetics import kinetics
    from kinet.data.sources.listing import Listing
    from kinet.data.sources.own_csv import own_csv
    from kinet.data.sources.something_v2 import something_v2
    from kinet.data.sources.ucf101 import ucf101

    match options.source:
        case "folder":
            return Listing({"train": index_folder(options.folder, options.list)})
        case "frames":
            return Listing({"train": index_frames(options.folder, options.list)})
        case "ucf101":
            return ucf101(options.folder, options.split, options.lists)
        case "hmdb51":
            return hmdb51(options.folder, options.split, options.lists)
        case "kinetics":
            return kinetics(options.folder, options.lists)
        case "something-v2":
            return something_v2(options.folder, options.lists)
        case _:
            return own_csv(
                options.folder,
                options.list,
                path_column=options.path_column,
                label_column=options.label_column,
                separator=options.separator,
            )


def manifest_check(options: argparse.Namespace) -> None:
    from kinet.data.check import KINDS, check_manifests, summary, write_report
    from kinet.data.groups import group_rule

    rule = None if options.group is None else group_rule(options.group)
    report = check_manifests(options.manifests, root=options.root, rule=rule, files=options.files)
    first = options.manifests[0]
    out = options.out or first.with_name(f"{first.stem}_check.csv")
    write_report(out, report)
    for line in summary(report):
        print(line, file=sys.stderr)
    counts = {kind.replace(" ", "_"): len(report.of(kind)) for kind in KINDS}
    rule_name = None if report.rule is None else report.rule.name
    print(json.dumps({"clips": report.clips, **counts, "group": rule_name, "report": str(out)}))


def scan(options: argparse.Namespace) -> None:
    from kinet.data.scan import ScanOptions, problem_table
    from kinet.data.scan import scan as run_scan

    if options.strict and options.good is None:
        raise InputError("--strict: says which clips --good keeps; give --good OUT.csv too")
    summary = run_scan(
        ScanOptions(
            manifest=options.manifest,
            out=options.out or options.manifest.with_name(f"{options.manifest.stem}_scan"),
            root=options.root,
            workers=options.workers,
            timeout=options.timeout,
            memory=options.memory,
            segments=options.segments,
            good=options.good,
            strict=options.strict,
        )
    )
    if summary["problems"]:
        Console(stderr=True).print(problem_table(summary))
    root = options.root or options.manifest.parent
    if options.good is not None and options.good.parent.resolve() != root.resolve():
        print(f"paths in {options.good} are relative to {root}: give it as data.root", file=sys.stderr)
    print(json.dumps(summary))


def train(options: argparse.Namespace) -> None:
    from kinet.config import load_config
    from kinet.training.engine import train as run_training
    from kinet.training.ranks import on_rank_zero

    result = run_training(load_config(options.config, options.overrides), resume=options.resume)
    on_rank_zero(print)(json.dumps(result))


def teach(options: argparse.Namespace) -> None:
    from kinet.teachers.teach import teach as run_teaching
    from kinet.teachers.teach_config import load_teach_config

    config = load_teach_config(options.task, options.config, options.overrides)
    print(json.dumps(run_teaching(config, resume=options.resume)))


def teach_check(options: argparse.Namespace) -> None:
    from kinet.data.manifest import read_manifest
    from kinet.teachers.check import check_teachers, draw, open_checked, random_frames, write_check

    clips = draw(read_manifest(options.manifest, root=options.root), options.clips, options.seed)
    pick = random_frames(options.frames, options.seed)
    teachers = [open_checked(teacher) for teacher in options.teacher]
    print(json.dumps(write_check(check_teachers(clips, teachers, pick), options.out)))


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


def ablate(options: argparse.Namespace) -> None:
    from kinet.ablation.rows import PAPER_BACKBONES
    from kinet.ablation.study import StudyOptions, run_study
    from kinet.config import load_config
    from kinet.evaluation.protocol import parse_views

    pairs = [pair.partition("=") for pair in options.weights]
    if not all(name and file for name, _, file in pairs):
        raise InputError(f"--weights {' '.join(options.weights)}: give BACKBONE=FILE")
    study = StudyOptions(
        tables=options.table,
        seeds=options.seeds,
        views=parse_views(options.views),
        split=options.split,
        only=options.rows,
        backbones=options.backbones or PAPER_BACKBONES,
        larger=options.larger,
        weights={name: file for name, _, file in pairs},
    )
    print(json.dumps(run_study(load_config(options.config, options.overrides), study)))


def info(options: argparse.Namespace) -> None:
    from kinet.config import load_config
    from kinet.info import print_info

    if options.classes < 1:
        raise InputError(f"--classes {options.classes}: give the number of actions, 1 or more")
    print_info(load_config(options.config, options.overrides), options.classes, as_json=options.json)
