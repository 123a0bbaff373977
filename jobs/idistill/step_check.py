"""One real weighted optimizer step, and what the theory predicts of it: the fit of slopes, weights of several kinds."""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from idistill import optimizer_file, sample_weights
from idistill.exact_model import ExactModel, Sample, draw_samples
from idistill.optimizer_file import OptimizerState
from idistill.optimizer_step import formula, step
from idistill.result import Result

KINDS = ["uniform", "top-k", "first-order", "second-order"]
PER_DECADE = 4  # learning rates of the table
ABOVE_NOISE = 100  # the second-order error, where slopes are measured
LONGEST_STEP = 0.1  # of the weights' norm
FIRST_ORDER_SLOPE, SECOND_ORDER_SLOPE = (1.9, 2.1), (2.8, 3.2)


class Row(NamedTuple):
    eta: float
    change: float  # of the target loss, real
    first_error: float
    second_error: float


class Check(NamedTuple):
    rows: list[Row]  # of falling eta
    noise: float
    first: float  # predicted change per eta
    second: float  # and per eta^2

    @property
    def fit(self) -> list[Row]:
        """The lowest decade whose second-order error is above the noise."""
        return [row for row in self.rows if row.second_error >= ABOVE_NOISE * self.noise][-PER_DECADE - 1 :]

    @property
    def slopes(self) -> tuple[float, float]:
        return slope(self.fit, "first_error"), slope(self.fit, "second_error")

    @property
    def passed(self) -> bool:
        ranges = (FIRST_ORDER_SLOPE, SECOND_ORDER_SLOPE)
        return all(low <= own <= high for own, (low, high) in zip(self.slopes, ranges))


def slope(rows: list, error: str) -> float:
    """Of log error against log eta."""
    return float(np.polyfit(np.log([row.eta for row in rows]), np.log([getattr(row, error) for row in rows]), 1)[0])


class OneStep:
    """A model before its step: gradients of all samples, the target's gradient, the formula's a and b."""

    def __init__(self, model: ExactModel, state: OptimizerState, pool: list[Sample], targets: list[Sample]):
        self.model, self.state, self.targets = model, state, targets
        self.pool = pool
        self.formula = formula(state, model)
        self.loss = model.mean_loss(targets)
        self.target_gradient = model.mean_gradient(targets)
        self.gradients = torch.empty(len(pool), model.size, dtype=torch.float64)
        for row, sample in zip(self.gradients, tqdm(pool, "gradients", unit=" samples", disable=None)):
            row.copy_(model.gradient(sample))
        self._curvature: tuple[np.ndarray, np.ndarray] | None = None

    def influence(self, direction: torch.Tensor) -> np.ndarray:
        """<a * g_i, direction> of every sample."""
        return (self.gradients @ (self.formula.scale * direction)).numpy()

    def curvature(self) -> tuple[np.ndarray, np.ndarray]:
        """(N) <a * g_i, H_T b>, and Q (N x N)."""
        if self._curvature is None:
            count = len(self.pool)
            products = np.zeros((count, count + 1))

            def vectors():
                yield self.formula.constant
                yield from (self.formula.scale * row for row in self.gradients)

            parts = self.model.hessian_products(self.targets, vectors)
            total = len(self.targets) * (count + 1)
            for i, part in tqdm(parts, "Hessian products", total, unit=" products", disable=None):
                products[:, i] += self.influence(part)
            self._curvature = products[:, 0], products[:, 1:] / count
        return self._curvature

    def weights(self, kind: str, k: int, eta: float, strength: float | None) -> tuple[np.ndarray, str]:
        """Of one of KINDS, and a remark. `strength`: lambda at second order, by default that of the first-order weights."""
        p = self.influence(self.target_gradient)
        if kind == "uniform":
            return np.ones(len(p)), ""
        if kind == "top-k":
            return sample_weights.top_k(p, k), ""
        own = sample_weights.first_order_penalty(p, k).strength
        if kind == "first-order":
            return sample_weights.first_order(p, k), f"lambda {own:.3g}"
        strength = own if strength is None else strength
        of_constant, q = self.curvature()
        weights, negative = sample_weights.second_order(p - eta * of_constant, q, eta, strength)
        return weights, f"lambda {strength:.3g}, {negative} of {len(p)} directions of Q negative, clipped"

    def mean_gradient(self, weights: np.ndarray) -> torch.Tensor:
        """(1/N) sum_i w_i g_i"""
        return torch.from_numpy(weights) @ self.gradients / len(weights)

    def gradient_by_training(self, weights: np.ndarray) -> torch.Tensor:
        """The same, accumulated from weighted losses as a trainer does."""
        parameters = list(self.model.parameters.values())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        for weight, sample in zip(weights, self.pool):
            if weight:
                (weight / len(self.pool) * self.model.loss(sample)).backward()
        gradient = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
        for parameter in parameters:
            parameter.grad = None
        return gradient

    def prediction(self, gradient: torch.Tensor) -> tuple[float, float]:
        """Changes of the target loss per eta and per eta^2, of the step with this gradient."""
        direction = self.formula.scale * gradient + self.formula.constant
        curved = sum(part for _, part in self.model.hessian_products(self.targets, lambda: [direction]))
        return -float(direction @ self.target_gradient), float(direction @ curved) / 2

    def change(self, gradient: torch.Tensor, eta: float, held: bool = True) -> float:
        """Real change of the target loss after one step of torch.optim."""
        before = self.model.weights()
        self.model.set_weights(step(self.state, self.model, gradient, eta, held))
        try:
            return self.model.mean_loss(self.targets) - self.loss
        finally:
            self.model.set_weights(before)

    def check(self, gradient: torch.Tensor) -> Check:
        """From the learning rate where curvature counts as much as slope down to where the noise begins."""
        first, second = self.prediction(gradient)
        if first == 0 or second == 0:
            raise ValueError("the step does not change the target loss to first or second order: there is nothing to compare")
        length = (self.formula.scale * gradient + self.formula.constant).norm()
        highest = min(abs(first / second), LONGEST_STEP * float(self.model.weights().norm() / length))
        noise = max(abs(self.change(gradient, eta) - first * eta) for eta in highest * 1e-9 * np.arange(1, 5))
        rows: list[Row] = []
        below = 0
        for i in tqdm(range(12 * PER_DECADE), "steps", disable=None):
            eta = highest * 10 ** (-i / PER_DECADE)
            change = self.change(gradient, eta)
            rows.append(Row(eta, change, abs(change - first * eta), abs(change - first * eta - second * eta**2)))
            below = below + 1 if rows[-1].second_error < ABOVE_NOISE * noise else 0
            if below == 2:
                break
        check = Check(rows, noise, first, second)
        if len(check.fit) <= PER_DECADE:
            raise ValueError(f"less than a decade of learning rates is above the noise ({noise:.1e}); expected a target loss "
                             "that the step changes more, by other weights or more parameters")  # fmt: skip
        return check


def default_rate(problem: OneStep) -> float:
    """Without an optimizer that says it: a quarter of where curvature and slope of the uniform step cancel."""
    first, second = problem.prediction(problem.mean_gradient(np.ones(len(problem.pool))))
    return abs(first / second) / 4


def file_weights(path: Path, rows: int, pool: list[Sample]) -> np.ndarray:
    """/weight of a result, of these samples of its pool, as factors of raw losses with mean 1. Raises ValueError."""
    with _opened(path) as result:
        if len(result) != rows:
            raise ValueError(f"{path}: has weights of {len(result)} samples, --pool has {rows}; expected the pool of "
                             "the result")  # fmt: skip
        drawn = np.array([sample.row for sample in pool])
        weights = result["weight"].astype(float)[drawn]
        positive = weights > 0
        if not positive.any():
            raise ValueError(f"{path}: all {len(pool)} samples that were drawn have weight 0; draw more with --samples")
        weights[positive] = result.effective_weights(drawn[positive], weights[positive])
    return weights * len(pool) / weights.sum()


def _opened(path: Path) -> Result:
    try:
        return Result(path)
    except ValueError as error:
        raise ValueError(f"{error}, or one of {', '.join(KINDS)}") from error


def check_memory(samples: int, size: int):
    needed = (samples + 12) * size * 8
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    if needed > available:
        raise ValueError(f"the gradients of {samples} samples over {size:,} weights take {needed / 1e9:.1f} GB, "
                         f"{available / 1e9:.1f} GB are free; take fewer --samples, or fewer layers with --parameters")  # fmt: skip


def prepare(options: argparse.Namespace) -> tuple[OneStep, int]:
    """And the rows of the pool. Raises ValueError and OSError."""
    pool, rows = draw_samples(options.pool, options.samples, options.max_length, options.seed)
    targets, _ = draw_samples(options.target, options.targets, options.max_length, options.seed)
    model = ExactModel(options.model, options.parameters)
    check_memory(len(pool), model.size)
    if options.optimizer:
        state = optimizer_file.read(options.optimizer, model.shapes, torch.float64)
    else:
        plain = {"momentum": 0.0, "dampening": 0.0}
        state = OptimizerState("sgd", 0, 0.0, 0.0, plain, {"momentum_buffer": {}})
    problem = OneStep(model, state, pool, targets)
    tokens = [sum(len(s.tokens) for s in samples) for samples in (pool, targets)]
    print(f"{len(pool)} samples of {tokens[0]:,} tokens, {len(targets)} targets of {tokens[1]:,}; {len(model.parameters)} layers, "
          f"{model.size:,} weights; {state.kind} after {state.step} steps")  # fmt: skip
    if problem.formula.untouched:
        print(f"{problem.formula.untouched:,} weights with a second moment of 0: a = 0 there")
    return problem, rows
