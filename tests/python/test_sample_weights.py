import numpy as np
import pytest
from idistill import sample_weights
from idistill.sample_weights import first_order, project, second_order
from scipy.optimize import minimize


def problem(count: int, rank: int, seed: int, indefinite: bool = False):
    random = np.random.default_rng(seed)
    factor = random.normal(size=(count, rank))
    signs = random.choice([-1, 1], rank) if indefinite else np.ones(rank)
    return random.normal(size=count), (factor * signs) @ factor.T / count


def reference(p, curvature):
    """By sequential quadratic programming."""
    count = len(p)
    found = minimize(
        lambda w: -p @ w + w @ curvature @ w / 2, np.ones(count), jac=lambda w: curvature @ w - p, method="SLSQP",
        bounds=[(0, None)] * count, constraints={"type": "eq", "fun": lambda w: w.sum() - count, "jac": np.ones_like},
        options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    return found.x


@pytest.mark.parametrize("count, k", [(12, 1), (12, 5), (12, 11), (12, 12), (1, 1)])
def test_first_order_minimises_with_k_positive_weights(count, k):
    p, _ = problem(count, 1, k)
    weights = first_order(p, k)
    assert (weights > 1e-12).sum() == k
    assert weights.sum() == pytest.approx(count)
    strength = sample_weights.first_order_penalty(p, k).strength
    if strength > 0:
        np.testing.assert_allclose(weights, reference(p, strength * np.eye(count)), atol=1e-6)


def test_ties_at_the_boundary_share():
    np.testing.assert_allclose(first_order(np.array([2.0, 2, 2, 1]), 2), [4 / 3, 4 / 3, 4 / 3, 0])
    np.testing.assert_allclose(first_order(np.full(3, -1.0), 3), [1, 1, 1])


@pytest.mark.parametrize("rank, indefinite", [(3, False), (12, False), (6, True), (1, False)])
def test_second_order_minimises(rank, indefinite):
    p, q = problem(12, rank, rank, indefinite)
    weights, negative = second_order(p, q, 0.7, 0.3)
    values, vectors = np.linalg.eigh(q)
    assert (negative > 0) == indefinite
    clipped = 0.7 * (vectors * values.clip(0)) @ vectors.T + 0.3 * np.eye(12)
    np.testing.assert_allclose(weights, reference(p, clipped), atol=1e-5)


def test_second_order_without_curvature_is_first_order():
    p, _ = problem(12, 1, 3)
    strength = sample_weights.first_order_penalty(p, 4).strength
    weights, _ = second_order(p, np.zeros((12, 12)), 1.0, strength)
    np.testing.assert_allclose(weights, first_order(p, 4), atol=1e-8)
    with pytest.raises(ValueError, match="lambda above 0"):
        second_order(p, np.zeros((12, 12)), 1.0, 0.0)


def test_projection():
    np.testing.assert_allclose(project(np.array([5.0, 0.0, -1.0])), [3, 0, 0])
    np.testing.assert_allclose(project(np.array([1.0, 1.0, 1.0])), [1, 1, 1])
    np.testing.assert_allclose(project(np.array([2.0, 1.5, -3.0])), [1.75, 1.25, 0])
