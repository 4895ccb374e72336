"""Late fusion: the weighted mean of several networks' class scores, such as an RGB and a flow network's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet.errors import InputError
from kinet.evaluation.metrics import Metrics, measure
from kinet.evaluation.run_test import write_tables
from kinet.evaluation.scores import ScoreFile, read_scores, write_scores
from kinet.training.run_folder import write_json


def fuse(files: Sequence[ScoreFile], weights: Sequence[float], sources: Sequence[str]) -> ScoreFile:
    """The weighted mean of the scores, before softmax as they are (section 3.1 of TSN, Wang et al. 2016).

    Clips and classes may stand in another order in each file; the result has the first one's.

    Args:
        weights: one a file, 0 or more and not all 0; only their proportions count.
        sources: the files' names, for messages.

    Raises:
        InputError: fewer than two files, unfit weights, or files that differ in clips, classes or a clip's label.
    """
    if len(files) < 2:
        raise InputError("fuse: give two score files or more")
    if len(weights) != len(files):
        raise InputError(f"--weights: {len(weights)} weights for {len(files)} score files; give one a file")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights):
        raise InputError(f"--weights: {' '.join(map(str, weights))}; give numbers from 0 up, not all of them 0")
    first, total = files[0], np.zeros(files[0].scores.shape)
    for file, weight, source in zip(files, weights, sources, strict=True):
        pair = f"{sources[0]} and {source}"
        rows = places(file.names, first.names, "clip", pair)
        columns = places(file.classes, first.classes, "class", pair)
        labels = np.array([file.classes[label] for label in file.labels[rows]])
        expected = np.array([first.classes[label] for label in first.labels])
        differs = np.flatnonzero(labels != expected)
        if differs.size:
            clip = int(differs[0])
            raise InputError(
                f"{pair}: {first.names[clip]} is of class {expected[clip]} in one, {labels[clip]} in the other"
            )
        total += weight / sum(weights) * file.scores[np.ix_(rows, columns)]
    views = " + ".join(dict.fromkeys(file.views for file in files))
    return ScoreFile(first.names, first.labels, total.astype(np.float32), first.classes, views)


def places(names: Sequence[str], wanted: Sequence[str], what: str, pair: str) -> NDArray[np.int64]:
    """Where each of ``wanted`` stands in ``names``, which must hold the same, each once."""
    for some in (names, wanted):
        twice = [name for name, count in Counter(some).items() if count > 1]
        if twice:
            raise InputError(f"{pair}: one of them has the {what} {twice[0]} twice; make its manifest's names unique")
    where = {name: place for place, name in enumerate(names)}
    alone = sorted(where.keys() ^ set(wanted))
    if alone:
        raise InputError(
            f"{pair}: {len(alone)} {what} names are in one alone, the first is {alone[0]}; "
            "test both networks on the same manifest"
        )
    return np.array([where[name] for name in wanted], dtype=np.int64)


def run_fusion(sources: Sequence[Path], weights: Sequence[float] | None, out: Path) -> tuple[dict[str, Any], Metrics]:
    """``kinet fuse``: writes what ``kinet test`` writes of the fused scores into ``out``; equal weights by default.

    Raises:
        InputError: as ``read_scores`` and ``fuse``.
    """
    files = [read_scores(source) for source in sources]
    weights = list(weights) if weights is not None else [1.0] * len(files)
    fused = fuse(files, weights, [str(source) for source in sources])
    metrics = measure(fused.scores, fused.labels, fused.classes)
    out.mkdir(parents=True, exist_ok=True)
    write_scores(out / "scores.npz", fused)
    write_tables(out, metrics, fused.classes)
    singles = [measure(file.scores, file.labels, file.classes).top1 for file in files]
    result = {
        **metrics.summary(),
        "fused": [
            {"scores": str(source), "weight": weight, "top1": top1}
            for source, weight, top1 in zip(sources, weights, singles, strict=True)
        ],
        "scores": str(out / "scores.npz"),
    }
    write_json(out / "result.json", result)
    return result, metrics
