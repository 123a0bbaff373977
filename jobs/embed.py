#!/usr/bin/env python3
"""Embeds samples with a sentence-transformers model, for idistill_mpi --influence delift-se and --embedding FILE.

    jobs/embed.py train/*.jsonl gsm8k_dev.jsonl --out sentences.h5
    jobs/embed.py train/*.jsonl gsm8k_dev.jsonl --model BAAI/bge-large-en-v1.5 --out sentences.h5

INPUT is what jobs/prepare.py reads, with the same options: rows get the same ids, by which idistill_mpi finds them. Pool and
targets go into one file. A sample is embedded as one text, what its messages say in order, as in NN-CIFT (prompt and response
joined), and its row has length 1. A text longer than the model reads is cut at its end; the closing table counts those.

Without --model, all-MiniLM-L6-v2 is taken, which needs no hub; the paper takes BAAI/bge-large-en-v1.5. A run that was stopped
continues with the same command, from what OUT.units keeps; --out is complete or not there.
"""

import argparse
import sys
from pathlib import Path

from idistill.arguments import add_reading, not_negative, positive, reading_of
from idistill.sentence_embedding import embed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_of_inputs = "files, directories or globs of samples, of pool and targets"
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help=help_of_inputs)
    parser.add_argument("--model", metavar="DIR|NAME", help="directory of a sentence-transformers model, or its name on a hub")
    parser.add_argument("--out", type=Path, required=True, help="embedding file to write (HDF5)")
    parser.add_argument("--batch-size", type=positive, default=32, help="samples at once (%(default)s)")
    parser.add_argument("--max-bad-lines", type=not_negative, default=0, help="bad lines to leave out and list (%(default)s)")
    add_reading(parser)
    options = parser.parse_args()
    try:
        summary = embed(
            options.inputs, options.out, options.model, options.batch_size, options.max_bad_lines, reading_of(options)
        )  # fmt: skip
    except (ValueError, OSError) as error:
        sys.exit(f"embed.py: {error}\n{options.out} was not written")
    print(f"{summary}\n\n{options.out}: written")


if __name__ == "__main__":
    main()
