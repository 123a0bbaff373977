"""Reading what idistill_mpi selected from a result file (HDF5, format "idistill-weights")."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

BLOCK = 65_536  # rows of /score in memory at once


class Selected(NamedTuple):
    """One selected sample."""

    id: str
    source: str
    weight: float  # mean 1 over the selection
    effective_weight: float  # of the sample's raw loss: over its gradient norm with cosine; mean 1 over the selection
    influence: dict[str, float]  # mean over each task's columns
    task: str | None  # whose column chose the sample; None where the rule does not go by columns
    column: str | None


def read_selection(path: Path) -> list[Selected]:
    """The selected samples in order of selection."""
    with opened(path) as file:
        tasks = _texts(file["task/name"])
        names = _texts(file["column/name"])
        sources = _texts(file["source/name"])
        task_of_column = file["column/task"][:]
        index = file["selected/index"][:]
        weights = file["selected/weight"][:]
        return [
            Selected(
                sample_id,
                sources[source],
                float(weight),
                float(effective_weight),
                dict(zip(tasks, map(float, scores))),
                tasks[task_of_column[column]] if column >= 0 else None,
                names[column] if column >= 0 else None,
            )
            for sample_id, source, weight, effective_weight, column, scores in zip(
                _texts(file["selected/id"]),
                _rows(file["source/index"], index),
                weights,
                effective_weights(file, index, weights),
                file["selected/column"][:],
                _rows(file["score"], index),
            )
        ]


def effective_weights(file: h5py.File, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What the selected samples' raw losses are to be multiplied with, mean 1.

    With cosine the weights belong to losses over the norms of their gradients.
    """
    effective = weights.astype(float)
    if json.loads(file.attrs["settings"])["normalize"] == "cosine":
        effective /= _rows(file["gradient_norm"], index)
    return effective / effective.mean()


def pool_sources(path: Path) -> Counter[str]:
    """How many samples of the pool each source has."""
    with opened(path) as file:
        return _counted(file, file["source/index"][:])


def best_sources(path: Path, task: str, first: int) -> Counter[str]:
    """How many samples each source has among the `first` of highest score for one task; ties go to the lower row.

    Raises ValueError for a task that the result does not have, and where fewer samples can be selected.
    """
    with opened(path) as file:
        tasks = _texts(file["task/name"])
        if task not in tasks:
            raise ValueError(f"{path}: has no task '{task}', only {', '.join(tasks)}")
        score = file["score"][:, tasks.index(task)]
        score[file["quarantine/index"][:]] = np.nan
        eligible = np.flatnonzero(np.isfinite(score))
        if len(eligible) < first:
            raise ValueError(f"{path}: {first:,} samples asked for, {len(eligible):,} eligible")
        best = eligible[np.argsort(-score[eligible], kind="stable")[:first]]
        return _counted(file, file["source/index"][:][best])


def opened(path: Path) -> h5py.File:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a result of idistill_mpi")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path}: not a result of idistill_mpi, nor another HDF5 file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read, it may be cut: {error}") from error
    if file.attrs.get("format") not in ("idistill-weights", b"idistill-weights"):
        file.close()
        raise ValueError(f"{path}: not a result of idistill_mpi")
    return file


def _counted(file: h5py.File, source_index: np.ndarray) -> Counter[str]:
    names = _texts(file["source/name"])
    return Counter(dict(zip(names, np.bincount(source_index, minlength=len(names)).tolist())))


def _texts(dataset: h5py.Dataset) -> list[str]:
    return [text.decode() for text in dataset[:]]


def _rows(dataset: h5py.Dataset, index: np.ndarray) -> np.ndarray:
    """dataset[index] for an index in any order."""
    rows = np.empty((len(index), *dataset.shape[1:]), dataset.dtype)
    for start in range(0, len(dataset), BLOCK):
        here = (index >= start) & (index < start + BLOCK)
        if here.any():
            rows[here] = dataset[start : start + BLOCK][index[here] - start]
    return rows
