"""Weights w >= 0 of N samples, sum N, that minimise  -p.w + (eta/2) w'Qw + (lambda/2) |w|^2, densely."""

from typing import NamedTuple

import numpy as np

ITERATIONS = 200_000
TOLERANCE = 1e-10  # of the weights, whose mean is 1


class Penalty(NamedTuple):
    threshold: float  # nu
    strength: float  # lambda


def first_order_penalty(p: np.ndarray, k: int) -> Penalty:
    """For which exactly k of the closed form's weights are positive, where no tie at the boundary is in the way."""
    ordered = np.sort(p)[::-1]
    count = len(p)
    if k < count:
        threshold = ordered[k]
    else:
        threshold = ordered[-1] - (ordered.mean() - ordered[-1])
    return Penalty(threshold, float((ordered[:k] - threshold).sum() / count))


def first_order(p: np.ndarray, k: int) -> np.ndarray:
    """max(0, (p_i - nu) / lambda); equal weights where the best k are all equal to the next."""
    threshold, strength = first_order_penalty(p, k)
    if strength <= 0:
        chosen = p >= threshold
        return chosen * len(p) / chosen.sum()
    return np.maximum(0, (p - threshold) / strength)


def top_k(p: np.ndarray, k: int) -> np.ndarray:
    """N/k each for the best k; ties go to the lower index."""
    weights = np.zeros(len(p))
    weights[np.argsort(-p, kind="stable")[:k]] = len(p) / k
    return weights


def second_order(p: np.ndarray, q: np.ndarray, eta: float, strength: float) -> tuple[np.ndarray, int]:
    """The minimiser, and how many directions of negative curvature were clipped to have one.

    Accelerated projected gradient with restarts, until the projected gradient step is below TOLERANCE. Raises ValueError
    where it is not.
    """
    count = len(p)
    eigenvalues, vectors = np.linalg.eigh((q + q.T) / 2)
    negative = int((eigenvalues < -1e-12 * np.abs(eigenvalues).max()).sum())
    curvature = eta * (vectors * np.maximum(eigenvalues, 0)) @ vectors.T + strength * np.eye(count)
    largest = np.linalg.eigvalsh(curvature)[-1]
    if largest == 0:
        raise ValueError("neither curvature nor a penalty bounds the weights; expected more curvature or a lambda above 0")
    weights = moved = np.ones(count)
    momentum = 1.0
    for _ in range(ITERATIONS):
        new = project(moved - (curvature @ moved - p) / largest)
        if (moved - new) @ (new - weights) > 0:  # the objective rises: start the acceleration again
            moved, momentum = weights, 1.0
            continue
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        moved, weights, momentum = new + (momentum - 1) / next_momentum * (new - weights), new, next_momentum
        if np.abs(project(weights - (curvature @ weights - p) / largest) - weights).max() < TOLERANCE:
            return weights, negative
    raise ValueError(f"the weights did not converge in {ITERATIONS} iterations; expected a larger lambda")


def project(values: np.ndarray) -> np.ndarray:
    """The nearest point of {w >= 0, sum w = N}."""
    ordered = np.sort(values)[::-1]
    thresholds = (np.cumsum(ordered) - len(values)) / np.arange(1, len(values) + 1)
    threshold = thresholds[np.flatnonzero(ordered > thresholds)[-1]]
    return np.maximum(values - threshold, 0)
