"""Command line arguments that several jobs take."""

import argparse

from idistill.forms import ASKED_FOR, NAMES
from idistill.rows import Reading


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: expected at least 1")
    return value


def not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}: expected at least 0")
    return value


def count_or_percent(option: str, text: str, rows: int) -> int:
    """N, or P% of the rows, at least 1. Raises ValueError, which names the option."""
    try:
        count = max(1, round(float(text[:-1]) / 100 * rows)) if text.endswith("%") else int(text)
    except ValueError as error:
        raise ValueError(f"{option} {text}: expected a number, or a percentage such as 5%") from error
    if not 1 <= count <= rows:
        raise ValueError(f"{option} {text}: expected between 1 and the {rows} samples")
    return count


def add_reading(parser: argparse.ArgumentParser):
    """How files of samples are to be read; not among the options where it is not given."""
    parser.add_argument("--form", choices=ASKED_FOR, default=argparse.SUPPRESS,
                        help="take the column 'text' as it is, all of it learnt; or the 'chosen' one of two answers")  # fmt: skip
    parser.add_argument("--columns", type=_columns, default=argparse.SUPPRESS, metavar="NAME=COLUMN,...",
                        help="columns that hold what a form has by another name, as prompt=Q,completion=A; NAME= leaves one "
                        "unread")  # fmt: skip
    parser.add_argument("--source", type=_source, action="append", default=argparse.SUPPRESS, metavar="NAME=GLOB",
                        help="source of the rows of these files, whatever they say; may be repeated")  # fmt: skip


def reading_of(options: argparse.Namespace) -> Reading:
    """Of the options of `add_reading`."""
    given = vars(options)
    return Reading(given.get("form"), given.get("columns", {}), tuple(given.get("source", ())))


def _columns(text: str) -> dict[str, str]:
    columns = {}
    for pair in text.split(","):
        name, equals, column = pair.partition("=")
        if not equals or name not in NAMES or name in columns or "=" in column:
            raise argparse.ArgumentTypeError(f"'{pair}': expected NAME=COLUMN and a comma before the next, each NAME once and of "
                                             f"{', '.join(NAMES)}")  # fmt: skip
        columns[name] = column
    return columns


def _source(text: str) -> tuple[str, str]:
    name, equals, pattern = text.partition("=")
    if not equals or not name or not pattern:
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=GLOB, as in math='data/math/*.jsonl'")
    return name, pattern
