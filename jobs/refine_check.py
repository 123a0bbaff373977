#!/usr/bin/env python3
"""Compares selecting by exact influence with propagating and refining: influence gain, recall and time.

    jobs/refine_check.py --out DIR --budgets 5% 1% --refine 4 auto --propagated "--landmarks 512 --embedding hidden" -- \\
        --model MODEL --pool pool.h5 --target gsm8k=gsm8k.h5

runs idistill_mpi with the options behind `--` once with --propagation none and, for every budget and factor, with
--refine (0: prediction alone); then prints a table. Results that are in DIR already are not computed again, and a
stopped run continues; other options, or files written again, are other results. Figures of a budget and factor:

  shortlist   samples whose exact influence was computed beside the landmarks'
  gain        exact influence of the selection over the pool's mean, relative to that of the exact selection; a sample
              counts with its influence on the column that chose it (top-k: with its mean over tasks; weighted: by its
              weight, with its mean over columns)
  recall      share of the exact selection that is selected
  over tasks  gain, but every sample with its mean influence over all tasks
  seconds     all stages of the run together, and relative to the exact run
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from kept import digest

# What `select` takes as well: rule and limits, not the budget.
SELECTING = ("--selection", "--top-k-by", "--source-cap", "--seed", "--influence", "--curvature", "--learning-rate", "--lambda", "--max-weight",
             "--source-share")  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


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


def compute(arguments, name: str, options: list[str], ranks: int) -> Path:
    """Runs idistill_mpi unless its result is there, and says where it is."""
    paths = [Path(word.rpartition("=")[2]) for word in options]
    out = arguments.out / f"{name}-{digest([options, ranks], filter(Path.is_file, paths))}.h5"
    if out.exists():
        return out
    command = [arguments.mpirun, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), arguments.program, *options, "--out", str(out)]
    print(shlex.join(command), file=sys.stderr, flush=True)
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        sys.exit(f"refine_check.py: the run for {out} failed; the same command continues")
    return out


def seconds(file: h5py.File) -> float:
    """All stages together; NaN when an earlier, stopped run did a part of the work."""
    spent = sum(float(value) for name, value in file.attrs.items() if name.startswith("seconds_"))
    return spent if file.attrs["units_recovered"] == 0 else float("nan")


def picks_of(file: h5py.File) -> Picks:
    return Picks(file["selected/index"][:], file["selected/column"][:], file["selected/weight"][:].astype(float),
                 "weights_lambda" in file.attrs)  # fmt: skip


def line(budget: str, factor: str, truth: Truth, best: Picks, exact_seconds: float, out: Path) -> str:
    with h5py.File(out) as file:
        picks, spent = picks_of(file), seconds(file)
        shortlist = int(file.attrs.get("refine_shortlist", 0))
        used = f"{file.attrs['refine_factor']:g}" if "refine_factor" in file.attrs else "0"
    recall = len(np.intersect1d(picks.row, best.row)) / len(best.row)
    shown = used if factor != "auto" else f"auto:{used}"
    return (f"  {budget:>6} {shown:>7} {shortlist:>9} {truth.gain(picks) / truth.gain(best):>6.3f} {recall:>6.3f} "
            f"{truth.gain_over_tasks(picks) / truth.gain_over_tasks(best):>10.3f} {spent:>8.1f} {spent / exact_seconds:>8.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    parser.add_argument("--budgets", nargs="+", default=["5%", "1%"], help="values of --select (5%% 1%%)")
    parser.add_argument("--refine", nargs="+", default=["4"], help="values of --refine (4)")
    parser.add_argument("--propagated", default="--landmarks 512", help="options of the runs with propagation alone (%(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--program", default=str(ROOT / "build/idistill_mpi"))
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("options", nargs="+", help="options of every run, behind --")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    exact_out = compute(arguments, "exact", [*arguments.options, "--propagation", "none"], arguments.ranks)
    with h5py.File(exact_out) as file:
        truth = Truth(file["influence"][:].astype(float), file["score"][:].astype(float).mean(1))
        exact_seconds = seconds(file)
    lines = [f"  {'budget':>6} {'refine':>7} {'shortlist':>9} {'gain':>6} {'recall':>6} {'over tasks':>10} {'seconds':>8} "
             f"{'of exact':>8}"]
    for budget in arguments.budgets:
        name = budget.removesuffix("%")
        again = compute(arguments, f"best-{name}", ["select", "--result", str(exact_out), "--select", budget, *_rule_of(arguments.options)], 1)
        with h5py.File(again) as file:
            best = picks_of(file)
        for factor in arguments.refine:
            refine = [] if factor == "0" else ["--refine", factor]
            own = [*arguments.options, *shlex.split(arguments.propagated), "--select", budget, *refine]
            out = compute(arguments, f"refine-{factor}-{name}", own, arguments.ranks)
            lines.append(line(budget, factor, truth, best, exact_seconds, out))
    print(f"exact selection: {exact_seconds:.1f} s of {arguments.ranks} ranks, {len(truth.score)} samples, {truth.influence.shape[1]} columns")
    print("\n".join(lines))


def _rule_of(options: list[str]) -> list[str]:
    """The options of SELECTING with their values."""
    taken, taking = [], False
    for word in options:
        if word.startswith("--"):
            taking = word.split("=")[0] in SELECTING
        if taking:
            taken.append(word)
    return taken


if __name__ == "__main__":
    main()
