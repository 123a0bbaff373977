#!/usr/bin/env python3
"""Writes the conversations in which a model rates samples, for idistill_mpi --influence selectit (SelectIT, arXiv 2402.16705).

    jobs/rate.py train/*.jsonl --model $MODEL --out ratings.h5
    mpirun -n 8 build/idistill_mpi --influence selectit --ratings ratings.h5 --model $MODEL --pool pool.h5 --out weights.h5

INPUT is what jobs/prepare.py reads, with the same options: rows get the same ids, by which idistill_mpi finds them. A sample is
rated once for every rating prompt: a user's message has the prompt, the sample's instruction and its response, and the model
would write the rating next. A sample with a conversation longer than the model reads is not rated: it will be quarantined.

--prompts is a text file with a prompt on every line, which names the numbers to rate with, 1 and --ratings. Its default has five:
"""

import argparse
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from idistill.arguments import add_reading, not_negative, positive, reading_of
from idistill.rating import write_ratings

PROMPTS = Path(__file__).with_name("rating_prompts.txt")


def main():
    parser = argparse.ArgumentParser(description=f"{__doc__}\n{PROMPTS.read_text(encoding='utf-8')}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="files, directories or globs of samples, of the pool")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory: the model that rates")
    parser.add_argument("--out", type=Path, required=True, help="rating file to write (HDF5)")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, metavar="FILE", help="rating prompts, one a line (those above)")
    parser.add_argument("--ratings", type=int, choices=range(2, 101), default=5, metavar="K",
                        help="ratings go from 1 to K (%(default)s)")  # fmt: skip
    parser.add_argument("--max-bad-lines", type=not_negative, default=0, help="bad lines to leave out and list (%(default)s)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=positive, default=cores, help="processes (%(default)s)")
    add_reading(parser)
    options = parser.parse_args()
    try:
        summary = write_ratings(
            options.inputs, options.model, options.out, options.prompts, options.ratings, options.max_bad_lines, options.workers,
            reading_of(options),
        )  # fmt: skip
    except BrokenProcessPool:
        sys.exit(f"rate.py: a worker process was killed, perhaps for memory; {options.out} was not written")
    except (ValueError, OSError) as error:
        sys.exit(f"rate.py: {error}\n{options.out} was not written")
    print(f"{summary}\n\n{options.out}: written")


if __name__ == "__main__":
    main()
