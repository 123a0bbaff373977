"""Reading what idistill_mpi selected from a result file (HDF5, format "idistill-weights")."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

BLOCK = 65_536  # rows of /score in memory at once


class Selected(NamedTuple):
    """One selected sample."""

    id: str
    weight: float  # mean 1 over the selection
    influence: dict[str, float]  # mean over each task's columns
    task: str | None  # whose column chose the sample; None where the rule does not go by columns
    column: str | None


def read_selection(path: Path) -> list[Selected]:
    """The selected samples in order of selection."""
    with h5py.File(path, "r") as file:
        if file.attrs.get("format") not in ("idistill-weights", b"idistill-weights"):
            raise ValueError(f"{path}: not a result of idistill_mpi")
        tasks = _texts(file["task/name"])
        names = _texts(file["column/name"])
        task_of_column = file["column/task"][:]
        influence = _rows(file["score"], file["selected/index"][:])
        return [
            Selected(
                sample_id,
                float(weight),
                dict(zip(tasks, map(float, scores))),
                tasks[task_of_column[column]] if column >= 0 else None,
                names[column] if column >= 0 else None,
            )
            for sample_id, weight, column, scores in zip(
                _texts(file["selected/id"]), file["selected/weight"][:], file["selected/column"][:], influence
            )
        ]


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
