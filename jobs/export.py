#!/usr/bin/env python3
"""Writes the samples that idistill_mpi selected, in order of selection.

Every sample keeps its own fields and gets six more: idistill_rank (from 0), idistill_weight (mean 1 over the
selection), idistill_effective_weight (to multiply the sample's mean token loss with in training: with --normalize
cosine the weight over the sample's gradient norm, otherwise the weight; mean 1 over the selection),
idistill_influence (per task, mean over the task's target samples), and idistill_task and idistill_column, the target
that chose it. Samples are matched by id, and each selected id must be found once: a row without an id of its own is not
found where it has moved or changed since prepare.py read it. JSON lines take what JSON does not know as text (dates in
ISO 8601, bytes that are no UTF-8 in base64), as numbers (decimals, durations in seconds) or as null (numbers that are
not finite).
"""

import argparse
import sys
from pathlib import Path

from idistill.arguments import add_reading, reading_of
from idistill.files import find_files
from idistill.result import Result
from idistill.sample_files import check_out, write
from idistill.selected_samples import export_rows, find_samples


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result file of idistill_mpi")
    parser.add_argument(
        "--pool", nargs="+", action="extend", type=Path, required=True,
        help="the files that the pool was prepared from, all of them; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="X.jsonl, X.parquet, or a new directory for datasets")
    add_reading(parser)
    options = parser.parse_args()
    reading = reading_of(options)
    try:
        check_out(options.out, [file.path for file in find_files(options.pool, reading)])
        with Result(options.result) as result:
            selection = result.selection()
        samples = find_samples(options.pool, {selected.id for selected in selection}, reading)
        write(export_rows(selection, samples), options.out)
    except (ValueError, OSError) as error:
        sys.exit(f"export.py: {error}")
    print(f"{options.out}: {len(selection):,} samples")


if __name__ == "__main__":
    main()
