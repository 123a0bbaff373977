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


class Curvature(NamedTuple):
    """What weights of second order are solved with (docs/method.md, Optimal weights): Q = F diag(c) F' / N, c of 0 where negative."""

    factor: np.ndarray  # F (samples x r)
    learning_rate_by_column: np.ndarray  # (r) eta c

    def cost(self, weight: np.ndarray) -> float:
        """(eta/2) w'Qw / N of weights whose mean over the pool is 1, by the weights over their sum (samples)."""
        along = np.nan_to_num(self.factor).T @ weight
        return float(0.5 * np.sum(self.learning_rate_by_column * along**2))


class Truth(NamedTuple):
    """Exact influence, NaN for quarantined samples."""

    influence: np.ndarray  # (samples x columns)
    score: np.ndarray  # (samples) mean over tasks
    curvature: Curvature | None  # None: of a rule, or an order, without

    def gain(self, picks: Picks) -> float:
        """What the picks gain over the whole pool with equal weights, by their rule: mean influence by weight, each on its
        column; of second order, less what they have in common."""
        by_column = self.influence[picks.row, picks.column] - np.nanmean(self.influence, 0)[picks.column]
        together = self.influence.mean(1) if picks.weighted else self.score
        gains = np.where(picks.column < 0, together[picks.row] - np.nanmean(together), by_column)
        mean = float(np.average(gains, weights=picks.weight))
        if self.curvature is None:
            return mean
        weight = np.zeros(len(together))
        weight[picks.row] = picks.weight / picks.weight.sum()
        usable = np.isfinite(together)
        return mean - self.curvature.cost(weight) + self.curvature.cost(usable / usable.sum())

    def gain_over_tasks(self, picks: Picks) -> float:
        return float(np.average(self.score[picks.row] - np.nanmean(self.score), weights=picks.weight))


def curvature_of(result: Result) -> Curvature | None:
    """Of an exact result, with the learning rate that its selection was solved with. Raises ValueError."""
    learning_rate = float(result.attributes.get("weights_learning_rate", 0))
    if learning_rate == 0:
        return None
    if result.setting("learning-rate") != "auto" and "column/step_product" in result:
        raise ValueError(f"{result.path}: expected --learning-rate auto with --optimizer, whose constant step a given one counts; "
                         f"found {result.setting('learning-rate')}")  # fmt: skip
    if result.setting("curvature") == "hessian":
        return Curvature(result["curvature/factor"].astype(float), learning_rate * (result["curvature/value"] > 0))
    counted = result["column/label_tokens"].astype(float)
    if result.setting("normalize") == "cosine":
        counted *= result["column/gradient_norm"]
    return Curvature(result["influence"].astype(float), learning_rate * counted / len(counted))


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
    of_exact = f"{spent / exact_seconds:.3f}" if np.isfinite(exact_seconds) else "-"
    return (f"  {budget:>6} {shown:>7} {shortlist:>9} {truth.gain(picks) / truth.gain(best):>6.3f} {recall:>6.3f} "
            f"{truth.gain_over_tasks(picks) / truth.gain_over_tasks(best):>10.3f} {spent:>8.1f} {of_exact:>8}")


def compare(arguments: argparse.Namespace, program: Program, exact_out: Path) -> list[str]:
    """The lines of the table; `exact_out`: the result of these options with --propagation none. Raises ValueError and OSError."""
    with Result(exact_out) as result:
        influence, score = result["influence"].astype(float), result.scores()
        exact_seconds = result.seconds
    count, columns = influence.shape
    took = f"{exact_seconds:.1f} s" if np.isfinite(exact_seconds) else "unknown time, as it was continued,"
    lines = [f"exact selection: {took} of {program.ranks} ranks, {count} samples, {columns} columns",
             f"  {'budget':>6} {'refine':>7} {'shortlist':>9} {'gain':>6} {'recall':>6} {'over tasks':>10} {'seconds':>8} "
             f"{'of exact':>8}"]
    for budget in arguments.budgets:
        name = budget.removesuffix("%")
        again = ["select", "--result", str(exact_out), "--select", budget, *_rule_of(arguments.options)]
        with Result(program.kept(f"best-{name}", again, ranks=1)) as result:
            best, truth = picks_of(result), Truth(influence, score, curvature_of(result))
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
