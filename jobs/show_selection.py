#!/usr/bin/env python3
"""Prints which sources a result of idistill_mpi prefers.

Without --task: for every target, each source's share of the pool and of what the target selected; of weighted samples, which
are selected for all targets together, its share of their weight as well.
With --task NAME: the sources that are most over-represented among the samples of highest score for this target alone,
whatever rule the selection followed: share among them over share of the pool.
"""

import argparse
import sys
from pathlib import Path

from idistill.arguments import positive
from idistill.result import Result
from idistill.selection_report import over_represented, shares_by_task


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result file of idistill_mpi")
    parser.add_argument("--task", nargs="+", metavar="NAME", help="targets, each looked at alone")
    parser.add_argument("--first", type=positive, default=500, help="samples of highest score (%(default)s)")
    parser.add_argument("--top", type=positive, default=10, help="sources to print (%(default)s)")
    options = parser.parse_args()
    try:
        with Result(options.result) as result:
            tables = (over_represented(result, task, options.first, options.top) for task in options.task or ())
            for table in tables if options.task else shares_by_task(result):
                print(f"\n{table}")
    except (ValueError, OSError) as error:
        sys.exit(f"show_selection.py: {error}")


if __name__ == "__main__":
    main()
