"""Selecting by exact influence against propagating and refining: runs of idistill_mpi, and what their selections gain."""

import argparse
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idistill.program_runs import Program
from idistill.result import Result

# What `select` takes as well: rule and limits, not the budget.
SELECTING = ("--selection", "--top-k-by", "--source-cap", "--seed", "--order", "--curvature", "--learning-rate", "--lambda", "--max-weight",
             "--source-share")  # fmt: skip


class Picks(NamedTuple):
    """A selection: rows of the pool, and the columns that chose them (-1: none)."""

    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray  # all 1 but of a weighted selection
    weighted: bool


class Truth(NamedTuple):
    """Exact influence, NaN for quarantined samples."""

    influence: np.ndarray  # (samples x columns)
    score: np.ndarray  # (samples) mean over tasks

    def gain(self, picks: Picks) -> float:
        """Mean influence of the picks by weight, each on its column, over the mean of the pool."""
        by_column = self.influence[picks.row, picks.column] - np.nanmean(self.influence, 0)[picks.column]
        together = self.influence.mean(1) if picks.weighted else self.score
        gains = np.where(picks.column < 0, together[picks.row] - np.nanmean(together), by_column)
        return float(np.average(gains, weights=picks.weight))

    def gain_over_tasks(self, picks: Picks) -> float:
        return float(np.average(self.score[picks.row] - np.nanmean(self.score), weights=picks.weight))


def picks_of(result: Result) -> Picks:
    return Picks(result["selected/index"], result["selected/column"], result["selected/weight"].astype(float),
                 "weights_lambda" in result.attributes)  # fmt: skip


def line(budget: str, factor: str, truth: Truth, best: Picks, exact_seconds: float, out: Path) -> str:
    with Result(out) as result:
        picks, spent = picks_of(result), result.seconds
        shortlist = int(result.attributes.get("refine_shortlist", 0))
        used = f"{result.attributes.get('refine_factor', 0):g}"
    recall = len(np.intersect1d(picks.row, best.row)) / len(best.row)
    shown = used if factor != "auto" else f"auto:{used}"
    return (f"  {budget:>6} {shown:>7} {shortlist:>9} {truth.gain(picks) / truth.gain(best):>6.3f} {recall:>6.3f} "
            f"{truth.gain_over_tasks(picks) / truth.gain_over_tasks(best):>10.3f} {spent:>8.1f} {spent / exact_seconds:>8.3f}")


def compare(arguments: argparse.Namespace, program: Program, exact_out: Path) -> list[str]:
    """The lines of the table; `exact_out`: the result of these options with --propagation none. Raises ValueError and OSError."""
    with Result(exact_out) as result:
        truth = Truth(result["influence"].astype(float), result.scores())
        exact_seconds = result.seconds
    count, columns = truth.influence.shape
    lines = [f"exact selection: {exact_seconds:.1f} s of {program.ranks} ranks, {count} samples, {columns} columns",
             f"  {'budget':>6} {'refine':>7} {'shortlist':>9} {'gain':>6} {'recall':>6} {'over tasks':>10} {'seconds':>8} "
             f"{'of exact':>8}"]
    for budget in arguments.budgets:
        name = budget.removesuffix("%")
        again = ["select", "--result", str(exact_out), "--select", budget, *_rule_of(arguments.options)]
        with Result(program.kept(f"best-{name}", again, ranks=1)) as result:
            best = picks_of(result)
        for factor in arguments.refine:
            refine = [] if factor == "0" else ["--refine", factor]
            own = [*arguments.options, *shlex.split(arguments.propagated), "--select", budget, *refine]
            out = program.kept(f"refine-{factor}-{name}", own)
            lines.append(line(budget, factor, truth, best, exact_seconds, out))
    return lines


def _rule_of(options: list[str]) -> list[str]:
    """The options of SELECTING with their values."""
    taken, taking = [], False
    for word in options:
        if word.startswith("--"):
            taking = word.split("=")[0] in SELECTING
        if taking:
            taken.append(word)
    return taken
