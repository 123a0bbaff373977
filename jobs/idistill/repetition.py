"""Weights as repetition, for trainers that know no weights."""

from collections.abc import Sequence

import numpy as np


def counts(weights: Sequence[float], seed: int) -> np.ndarray:
    """(n) how often each sample is to be there: its weight in expectation, and always that rounded down or up.

    The weights have mean 1, so the counts sum to n: systematic sampling takes every point of a grid of distance 1, moved by
    one random number, that falls into a sample's part of the line of all weights.
    """
    ends = np.cumsum(np.asarray(weights, float))
    ends *= len(ends) / ends[-1]
    ends[-1] = len(ends)
    points_before = np.ceil(ends - np.random.default_rng(seed).random())
    return np.diff(points_before, prepend=0).astype(int)
