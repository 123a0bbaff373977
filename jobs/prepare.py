#!/usr/bin/env python3
"""Tokenises samples with a model's chat template and writes the token file that idistill_mpi reads.

INPUT is a file of JSON lines, a JSON array (.json), CSV or TSV, each also with .gz or .zst behind it; Parquet; a directory of
these or one saved by `datasets`; a glob in quotes; or LLaMA-Factory's dataset_info.json, of which dataset_info.json:NAME,NAME
takes some. A row holds a conversation as `messages` or `conversations`, as `prompt` and `completion`, as `instruction`, `input`
and `output`, as `question` and `answer`, or as another form of docs/data.md. Its `source` defaults to the file's stem without
shard numbers, its `id` to "<stem>-<line number>-<8 hex digits of a digest of the line>": export.py refuses selected lines that
have moved or changed since. Only what an assistant says, with its end-of-turn token, carries labels; show_labels.py prints a row
with them. Control tokens in the text of messages are text.

Samples are streamed: memory does not grow with the pool, but for 48 MB per million samples to find ids and samples that are
there twice.
"""

import argparse
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from idistill.arguments import add_reading, not_negative, positive, reading_of
from idistill.chat_labels import CONTROL_CHOICES
from idistill.preparation import prepare


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_of_inputs = "files, directories or globs of samples, read in this order"
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help=help_of_inputs)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--out", type=Path, required=True, help="token file to write (HDF5)")
    parser.add_argument("--max-length", type=positive, default=2048, help="tokens kept of a sample (%(default)s)")
    parser.add_argument("--max-bad-lines", type=not_negative, default=0, help="bad lines to leave out and list (%(default)s)")
    parser.add_argument("--control-tokens", choices=CONTROL_CHOICES, default="text",
                        help="control tokens in texts of messages: encode as text, or refuse the row (%(default)s)")  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=positive, default=cores, help="processes (%(default)s)")
    add_reading(parser)
    options = parser.parse_args()
    try:
        summary = prepare(
            options.inputs, options.model, options.out, options.max_length, options.max_bad_lines, options.workers,
            reading=reading_of(options), control_tokens=options.control_tokens,
        )  # fmt: skip
    except BrokenProcessPool:
        sys.exit(f"prepare.py: a worker process was killed, perhaps for memory; {options.out} was not written")
    except (ValueError, OSError) as error:
        sys.exit(f"prepare.py: {error}\n{options.out} was not written")
    print(f"{summary}\n\n{options.out}: written")


if __name__ == "__main__":
    main()
