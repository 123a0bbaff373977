#!/usr/bin/env python3
"""How well embeddings predict exact influence: leave-one-out on landmarks, and samples that were not landmarks.

    mpirun -n 2 idistill_mpi --propagation none ... --pool pool.h5 --out exact.h5
    mpirun -n 2 idistill_mpi embed --model MODEL --pool pool.h5 --embedding jvp --out jvp.h5
    jobs/embedding_check.py --exact exact.h5 --pool pool.h5 --landmarks 1024 --held-out 512 jvp.h5 jvp.h5+other.h5

Kernel ridge as in idistill_mpi, written a second time in NumPy: the mean of the kernels of each embedding (RBF,
median bandwidth), of the log lengths and of the source; damping and intercept by leave-one-out. Landmarks and held-out
samples are drawn at random. The first row is the source alone, the second source and lengths. Figures are means over tasks:

  within     R2 of differences between two samples of a source: which sample of a source is better; leave-one-out leaves
             out both of them
  R2         1 - squared error over variance
  Spearman   correlation of ranks
"""

import argparse
import sys
from pathlib import Path

from idistill.arguments import positive
from idistill.embedding_quality import check


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", type=Path, required=True, help="result with --propagation none")
    parser.add_argument("--pool", type=Path, required=True, help="its token file")
    parser.add_argument("--landmarks", type=positive, default=1024, help="(%(default)s)")
    parser.add_argument("--held-out", type=positive, default=512, help="samples to predict beside them (%(default)s)")
    parser.add_argument("--seed", type=int, default=43, help="of what is drawn (%(default)s)")
    parser.add_argument("--alone", action="store_true", help="every embedding also without kernels of source and lengths")
    parser.add_argument("embeddings", nargs="+", metavar="FILE[+FILE]", help="from idistill_mpi embed; joined: each with a kernel")
    try:
        for line in check(parser.parse_args()):
            print(line, flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"embedding_check.py: {error}")


if __name__ == "__main__":
    main()
