#!/usr/bin/env python3
"""Prints a row as the model sees it, with what carries labels marked: in green on a terminal, in brackets otherwise.

What is printed is the text of the tokens that prepare.py would write.
"""

import argparse
import itertools
import sys
from pathlib import Path

from idistill.arguments import add_reading, positive, reading_of
from idistill.chat_labels import ChatEncoder
from idistill.marked_labels import BRACKETS, GREEN, marked
from idistill.model_tokenizer import load_tokenizer
from idistill.rows import BadRow, naming
from idistill.samples import parse_sample, read_rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="samples, as prepare.py reads them")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--row", type=positive, default=1, help="which row, from 1, blank lines not counted (%(default)s)")
    parser.add_argument("--max-length", type=positive, default=2048, help="tokens kept of a sample (%(default)s)")
    add_reading(parser)
    options = parser.parse_args()
    try:
        encoder = ChatEncoder(load_tokenizer(options.model), options.max_length)
        row = next(itertools.islice(read_rows(options.file, reading=reading_of(options)), options.row - 1, None), None)
        if row is None:
            raise ValueError(f"{options.file}: has no row {options.row}")
        with naming(row.place):
            conversation = encoder.render(parse_sample(row))
            (own,) = encoder.encode([conversation])
            if own.problem:
                raise BadRow(own.problem)
    except (ValueError, OSError) as error:
        sys.exit(f"show_labels.py: {error}")
    print(marked(conversation, own, GREEN if sys.stdout.isatty() else BRACKETS))
    cut = f", cut at {options.max_length:,}" if own.truncated else ""
    print(f"\n{row.place}: {len(own.tokens):,} tokens{cut}, {int(own.label_mask.sum()):,} with labels", file=sys.stderr)
    for remark in [*sorted(own.remarks), *([f"no labels: {own.without_labels}"] if own.without_labels else [])]:
        print(f"  {remark}", file=sys.stderr)


if __name__ == "__main__":
    main()
