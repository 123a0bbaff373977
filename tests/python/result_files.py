"""Tiny result files, as idistill_mpi writes them."""

import json
from pathlib import Path

import h5py
import numpy as np


def fixed_length(values: list[str]) -> np.ndarray:
    """UTF-8 strings of one length."""
    encoded = [value.encode() for value in values]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded))))


def write_result(
    path: Path, *, ids, sources, scores, tasks, columns, column_task, selected, selected_columns, weights, quarantined=(), norms=None,
    normalize="cosine", propagation="none", tokens=None,
) -> Path:
    """`scores` (rows x tasks); `selected` are rows in order of selection; `norms` and `tokens` of all rows are 1 if not given."""
    names = list(dict.fromkeys(sources))
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "idistill-weights", "version": 1, "units_recovered": 0, "seconds_exact": 1.5, "seconds_select": 0.5})
        file.attrs["settings"] = json.dumps({"normalize": normalize, "propagation": propagation})
        weight = np.zeros(len(ids), np.float32)
        weight[selected] = np.asarray(weights) * len(ids) / len(selected)
        file["weight"] = weight
        file["tokens"] = np.ones(len(ids), np.int32) if tokens is None else np.asarray(tokens, np.int32)
        file["gradient_norm"] = np.ones(len(ids), np.float32) if norms is None else np.asarray(norms, np.float32)
        file["id"] = fixed_length(ids)
        file["score"] = np.asarray(scores, np.float32)
        file["source/name"] = fixed_length(names)
        file["source/index"] = np.array([names.index(source) for source in sources], np.int32)
        file["task/name"] = fixed_length(tasks)
        file["column/name"] = fixed_length(columns)
        file["column/task"] = np.array(column_task, np.int32)
        file["selected/index"] = np.array(selected, np.int64)
        file["selected/id"] = fixed_length([ids[row] for row in selected])
        file["selected/weight"] = np.array(weights, np.float32)
        file["selected/column"] = np.array(selected_columns, np.int32)
        file["quarantine/index"] = np.array(quarantined, np.int64)
    return path
