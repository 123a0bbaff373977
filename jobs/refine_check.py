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
              weight, with its mean over columns; of second order less (eta/2) w'Qw, with the exact selection's eta)
  recall      share of the exact selection that is selected
  over tasks  gain, but every sample with its mean influence over all tasks
  seconds     all stages of the run together, and relative to the exact run
"""

import argparse
import sys
from pathlib import Path

from idistill.program_runs import Program
from idistill.refinement import compare

ROOT = Path(__file__).resolve().parent.parent


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
    try:
        arguments = parser.parse_args()
        arguments.out.mkdir(parents=True, exist_ok=True)
        program = Program(arguments.out, arguments.program, arguments.mpirun, arguments.ranks)
        exact = program.kept("exact", [*arguments.options, "--propagation", "none"])
        print("\n".join(compare(arguments, program, exact)))
    except (ValueError, OSError) as error:
        sys.exit(f"refine_check.py: {error}")


if __name__ == "__main__":
    main()
