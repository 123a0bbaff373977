#!/usr/bin/env python3
"""How well propagated influence meets exact influence, on samples that were not labelled.

    mpirun -n 2 idistill_mpi --influence NAME --propagation none ... --pool part.h5 --out exact.h5
    mpirun -n 2 idistill_mpi --influence NAME --propagation network ... --pool pool.h5 --out network.h5
    jobs/propagation_check.py --exact exact.h5 network.h5 ridge.h5

Samples are found by their ids, so that EXACT may be of a small part of the pool, where labels are expensive. The targets
must be the same, and so must be what they are contrasted with: --contrast 0, as the default draws from a run's own pool. Figures of every result, over the samples that only EXACT computed:

  pairs     R2 of single influences, of a sample on a target sample
  within    R2 of a sample's mean influence on a task, less the mean over the samples of its source: which of them is better
  R2        of the mean influence on a task
  Spearman  correlation of ranks of that; means over tasks, as those before
  seconds   of all stages of the run
"""

import argparse
import sys
from pathlib import Path

from idistill.propagation_quality import check


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", type=Path, required=True, help="result with --propagation none, of the pool or a part of it")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="of runs that propagate to the same targets")
    try:
        for line in check(parser.parse_args()):
            print(line, flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"propagation_check.py: {error}")


if __name__ == "__main__":
    main()
