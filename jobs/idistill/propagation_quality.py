"""How well propagated influence meets exact influence of the same samples on the same targets."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from idistill.embedding_quality import centred, r_squared
from idistill.result import Result


class Compared(NamedTuple):
    """Of the samples that were predicted in one result and computed in the other; n of them."""

    truth: np.ndarray  # (n x columns)
    predicted: np.ndarray  # (n x columns)
    task: np.ndarray  # (columns)
    source: np.ndarray  # (n)
    labelled: int  # samples that the propagation learnt from
    seconds: float


def by_task(influence: np.ndarray, task: np.ndarray) -> np.ndarray:
    """(n x tasks) mean over the columns of a task."""
    return np.stack([influence[:, task == own].mean(1) for own in np.unique(task)], 1)


def contrasted(result: Result) -> list[str]:
    """Ids of the samples whose mean gradient is projected out of the targets', which decides what influence is of."""
    ids = result.texts("id") if "contrast/index" in result.names() else []
    return sorted(ids[row] for row in result["contrast/index"]) if ids else []


def compared(exact: Result, result: Result) -> Compared:
    """Raises ValueError where the two have other targets or contrast, or no sample in common that only `exact` computed."""
    if exact.setting("propagation") != "none":
        raise exact.error("expected a run with --propagation none, found one that propagated")
    columns, task = exact.texts("column/name"), exact["column/task"]
    if (result.texts("column/name"), result["column/task"].tolist()) != (columns, task.tolist()):
        raise result.error(f"/column/name: expected the columns of {exact.path}, found others: run both with the same targets")
    if contrasted(result) != contrasted(exact):
        raise result.error(f"/contrast/index: expected the samples of {exact.path}, found others: run both with --contrast 0")
    computed, predicted = exact["exact"].astype(bool), ~result["exact"].astype(bool)
    place = {sample_id: row for row, sample_id in enumerate(result.texts("id")) if predicted[row]}
    pairs = [(row, place[own]) for row, own in enumerate(exact.texts("id")) if computed[row] and own in place]
    truth, guess = (file["influence"][rows] for file, rows in zip((exact, result), np.array(pairs, int).reshape(-1, 2).T))
    finite = np.isfinite(guess).all(1) & np.isfinite(truth).all(1)
    if finite.sum() < 2:
        raise result.error(f"/exact: expected samples that were predicted here and computed in {exact.path}, found {finite.sum()}")
    source = exact["source/index"][[row for row, _ in pairs]]
    labelled = len(result["landmark/index"]) if "landmark/index" in result.names() else 0
    return Compared(truth[finite].astype(float), guess[finite].astype(float), task, source[finite], labelled, result.seconds)


def figures(found: Compared) -> tuple[float, float, float, float]:
    """R2 of pairs; within source, R2 and Spearman of the means over a task."""
    truth, guess = by_task(found.truth, found.task), by_task(found.predicted, found.task)
    within = r_squared(centred(truth, found.source), centred(guess, found.source))
    rank = float(np.mean([spearmanr(truth[:, task], guess[:, task])[0] for task in range(truth.shape[1])]))
    return r_squared(found.truth.reshape(-1, 1), found.predicted.reshape(-1, 1)), within, r_squared(truth, guess), rank


def check(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table. Raises ValueError and OSError."""
    width = max(len("result"), *(len(str(path)) for path in options.results))
    yield f"{'result':{width}}  {'labelled':>8} {'samples':>8}  {'pairs':>7} {'within':>7} {'R2':>7} {'Spearman':>8} {'seconds':>8}"
    with Result(options.exact) as exact:
        for path in options.results:
            with Result(path) as result:
                found = compared(exact, result)
            pairs, within, r2, rank = figures(found)
            line = f" {pairs:7.3f} {within:7.3f} {r2:7.3f} {rank:8.3f}"
            yield f"{path!s:{width}}  {found.labelled:8} {len(found.truth):8} {line} {found.seconds:8.1f}"
