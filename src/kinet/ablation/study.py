"""``kinet ablate``: trains and tests the rows of the paper's tables over seeds, and goes on where it was stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from kinet.ablation.rows import BASELINE, PAPER_BACKBONES, Row, changed, study_rows
from kinet.ablation.tables import RowResult, compare, plot, to_json, to_markdown
from kinet.config import Config
from kinet.errors import InputError
from kinet.evaluation.protocol import Views
from kinet.evaluation.run_test import TestOptions, run_test
from kinet.info import inference_parameters, parts_table, training_skeleton
from kinet.teachers.labelling import Labelling
from kinet.training.engine import NonFiniteLoss, train
from kinet.training.run_folder import RunFolder, environment, read_log, to_plain, write_json

console = Console(stderr=True)


@dataclass(frozen=True)
class StudyOptions:
    """What a study can be told besides the config."""

    tables: Sequence[int] = (1,)
    seeds: int = 3
    """Trainings a row: with the config's seed and the numbers after it."""
    views: Views = field(default_factory=lambda: Views(25, 10))
    split: str = "val"
    """``val`` or ``test``: the manifest of the config that the accuracies are measured on."""
    only: Sequence[str] = ()
    """Keys of the rows to train; empty trains all. The baseline's are always there to compare with."""
    backbones: Sequence[str] = PAPER_BACKBONES
    larger: str | None = None
    weights: dict[str, str] = field(default_factory=dict)


def run_study(config: Config, options: StudyOptions, labelling: Labelling | None = None) -> dict[str, Any]:
    """Train every row with every seed, test its last epoch, and write the tables.

    All rows see the same seeds, and so the same clips, frames and crops in the same order. ``config.out`` gets
    ``<row>/seed<k>`` for each training (a run's folder, with its result in ``ablation_<split>_<views>.json``),
    ``results.json``, ``tables.md`` and ``gains.png``, all renewed after every training. A study that was stopped goes
    on; several processes may work on one folder at once, each on its own training. A training whose loss is not finite
    is noted as failed, and the study goes on.

    Args:
        labelling: the pseudo labels of all rows that learn some; by default those of ``config.teachers``.

    Returns what ``results.json`` holds.

    Raises:
        InputError: an unknown row or table, no manifest to measure on, or a folder with trainings of another config.
    """
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: give 1 or more")
    manifest = getattr(config.data, options.split)
    if manifest is None:
        raise InputError(f"data.{options.split}: name the manifest that the accuracies are measured on")
    rows = study_rows(
        config, options.tables, backbones=options.backbones, larger=options.larger, weights=options.weights
    )
    rows = chosen(rows, options.only)
    out = Path(config.out)
    runs = [(row, config.training.seed + seed) for seed in range(options.seeds) for row in rows]
    for number, (row, seed) in enumerate(runs, 1):
        run = changed(config, {**row.changes, "training.seed": seed, "out": str(out / row.key / f"seed{seed}")})
        with claimed(Path(run.out)) as mine:
            if mine and not finished(run, options):
                console.print(f"{number}/{len(runs)}  {row.key}, seed {seed}", highlight=False)
                train_and_test(run, row, options, labelling)
        report(out, rows, options)
    return report(out, rows, options)


def chosen(rows: list[Row], only: Sequence[str]) -> list[Row]:
    """The rows with these keys and the baseline."""
    keys = [row.key for row in rows]
    unknown = [key for key in only if key not in keys]
    if unknown:
        raise InputError(f"--rows {unknown[0]}: no such row in these tables; there are {', '.join(keys)}")
    return [row for row in rows if not only or row.key in {BASELINE, *only}]


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process has the training to itself; another's claim ends with that process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def result_file(run: Config, options: StudyOptions) -> Path:
    return Path(run.out) / f"ablation_{options.split}_{options.views}.json"


def finished(run: Config, options: StudyOptions) -> bool:
    """Whether the training's result is there. Raises InputError where the folder holds another config's."""
    path = result_file(run, options)
    if not path.exists():
        return False
    then, now = json.loads(path.read_text())["config"], to_plain(asdict(run))
    differing = [f"{section}.{key}" for section, key in differences(then, now)]
    if differing:
        raise InputError(f"{run.out}: was trained with another {differing[0]}; choose another --out")
    return True


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str]]:
    """Keys (section, name) whose values differ; ``out``, which is no section, may."""
    return [
        (section, key)
        for section, values in now.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if then.get(section, {}).get(key) != value
    ]


def train_and_test(run: Config, row: Row, options: StudyOptions, labelling: Labelling | None) -> None:
    """One training, tested at its last epoch: the split that is reported must not choose one."""
    started = time.perf_counter()
    folder = RunFolder(Path(run.out))
    content: dict[str, Any] = {"row": row.key, "seed": run.training.seed, "config": to_plain(asdict(run))}
    try:
        trained = train(run, labelling=labelling if run.model.auxiliaries else None, resume="auto")
    except NonFiniteLoss as error:
        console.print(f"{row.key}: {error}", style="yellow", highlight=False, markup=False)
        content |= {"failed": str(error)}
    else:
        test_options = TestOptions(
            options.views,
            Path(getattr(run.data, options.split)),
            Path(run.data.root) if run.data.root else None,
            device=run.training.device,
        )
        tested, metrics = run_test(folder.last, test_options)
        content |= {key: tested[key] for key in ("top1", "top5", "mean_class", "videos", "skipped", "scores")}
        content |= {"train_seconds": trained["seconds"], "last_epoch": last_epoch(folder)}
        content |= costs(run, len(metrics.per_class))
    content |= {"wall_seconds": round(time.perf_counter() - started, 1), "environment": environment()}
    write_json(result_file(run, options), content)


def last_epoch(folder: RunFolder) -> dict[str, float]:
    """The log's row of the last epoch: losses, edge entropy, validation."""
    return [row for row in read_log(folder.log) if "epoch" in row][-1]


def report(out: Path, rows: Sequence[Row], options: StudyOptions) -> dict[str, Any]:
    """Write the tables over the results that are there."""
    results = []
    for row in rows:
        files = sorted((out / row.key).glob(f"seed*/ablation_{options.split}_{options.views}.json"))
        runs = [json.loads(file.read_text()) for file in files]
        if runs:
            results.append(RowResult(row, runs))
    with FileLock(out / ".report.lock"):
        compared = compare(results)
        content = to_json(compared, options.split, str(options.views))
        write_json(out / "results.json", content)
        (out / "tables.md").write_text(to_markdown(compared, options.tables, options.split, str(options.views)))
        plot(compared, out / "gains.png")
    return content


def costs(run: Config, classes: int) -> dict[str, float]:
    """Parameters at inference, and multiply-adds of a clip of N_seg frames."""
    model = training_skeleton(run, classes)
    parts = [part for part in parts_table(model, run.data.input_size) if part.inference]
    return {"parameters": inference_parameters(model), "gmacs_per_clip": sum(part.macs for part in parts) / 1e9}
