"""Types of command line arguments that several jobs take."""

import argparse


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: expected at least 1")
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
