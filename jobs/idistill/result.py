"""Results of idistill_mpi (HDF5, format "idistill-weights"): the one place that knows what is where in them."""

import json
from collections import Counter
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from idistill.output_file import OutputFile


class Selected(NamedTuple):
    """One selected sample."""

    id: str
    row: int  # in the pool
    source: str
    weight: float  # mean 1 over the selection
    effective_weight: float  # of the sample's raw loss: over its gradient norm with cosine; mean 1 over the selection
    influence: dict[str, float]  # mean over each task's columns
    task: str | None  # whose column chose the sample; None where the rule does not go by columns
    column: str | None


class Result(OutputFile):
    """Influences and weights of a pool, and what was selected from it; datasets by name as in `result["weight"]`."""

    kind = "a result of idistill_mpi"
    remedy = "give the --out of a finished idistill_mpi run of this version"
    versions = {"idistill-weights": 1}

    def __len__(self) -> int:
        """Samples of the pool."""
        return len(self.dataset("id"))

    @cached_property
    def tasks(self) -> list[str]:
        return self.texts("task/name")

    def setting(self, name: str) -> Any:
        """The value that an option had in the run."""
        settings = json.loads(self.attribute("settings"))
        if name not in settings:
            raise self.error(f"attribute settings: expected a value of '{name}', found none")
        return settings[name]

    @property
    def seconds(self) -> float:
        """Of all stages together; NaN when an earlier, stopped run did a part of the work."""
        spent = sum(float(value) for name, value in self.attributes.items() if name.startswith("seconds_"))
        return spent if self.attribute("units_recovered") == 0 else float("nan")

    def selection(self) -> list[Selected]:
        """In order of selection."""
        columns, sources = self.texts("column/name"), self.texts("source/name")
        task_of_column = self["column/task"]
        index, weights = self["selected/index"], self["selected/weight"]
        return [
            Selected(
                sample_id,
                int(row),
                sources[source],
                float(weight),
                float(effective_weight),
                dict(zip(self.tasks, map(float, scores))),
                self.tasks[task_of_column[column]] if column >= 0 else None,
                columns[column] if column >= 0 else None,
            )
            for sample_id, row, source, weight, effective_weight, column, scores in zip(
                self.texts("selected/id"),
                index,
                self.rows("source/index", index),
                weights,
                self.effective_weights(index, weights),
                self["selected/column"],
                self.rows("score", index),
            )
        ]

    def effective_weights(self, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """What the raw losses of these samples are to be multiplied with, mean 1.

        With cosine of gradients the weights belong to losses over the norms of these. Influence that is none of gradients has
        no norms: its weights are of the raw losses.
        """
        effective = weights.astype(float)
        if self.setting("normalize") == "cosine" and "gradient_norm" in self:
            effective /= self.rows("gradient_norm", index)
        return effective / effective.mean()

    def scores(self, task: str | None = None) -> np.ndarray:
        """(N) mean influence on a task, or over all; NaN for samples that were quarantined. Raises ValueError."""
        if task is None:
            scores = self["score"].astype(float).mean(1)
        elif task in self.tasks:
            scores = self.dataset("score")[:, self.tasks.index(task)].astype(float)
        else:
            raise ValueError(f"{self.path}: has no task '{task}', only {', '.join(self.tasks)}")
        scores[self["quarantine/index"]] = np.nan
        return scores

    def pool_sources(self) -> Counter[str]:
        """How many samples of the pool each source has."""
        return self._by_source(self["source/index"])

    def best_sources(self, task: str, first: int) -> Counter[str]:
        """How many samples each source has among the `first` of highest score for one task; ties go to the lower row.

        Raises ValueError where fewer samples can be selected.
        """
        scores = self.scores(task)
        eligible = np.flatnonzero(np.isfinite(scores))
        if len(eligible) < first:
            raise ValueError(f"{self.path}: {first:,} samples asked for, {len(eligible):,} eligible")
        best = eligible[np.argsort(-scores[eligible], kind="stable")[:first]]
        return self._by_source(self["source/index"][best])

    def _by_source(self, source_index: np.ndarray) -> Counter[str]:
        names = self.texts("source/name")
        return Counter(dict(zip(names, np.bincount(source_index, minlength=len(names)).tolist())))
