"""What is printed of one real optimizer step: the table of slopes, what torch.optim does besides, weights compared."""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch

from idistill.arguments import count_or_percent
from idistill.step_check import (
    FIRST_ORDER_SLOPE, KINDS, SECOND_ORDER_SLOPE, Check, OneStep, default_rate, file_weights, prepare, slope,
)  # fmt: skip


def print_check(check: Check):
    print(f"noise of the target loss in fp64: {check.noise:.1e}; * marks the decade that slopes are measured on")
    print("         eta   real change   first order  second order   first-order error   second-order error")
    for row in check.rows:
        first = check.first * row.eta
        print(f"{row.eta:12.3e}  {row.change:12.4e}  {first:12.4e}  {first + check.second * row.eta**2:12.4e}  "
              f"{row.first_error:18.3e}  {row.second_error:19.3e} {'*' * (row in check.fit)}".rstrip())  # fmt: skip
    first, second = check.slopes
    said = "as the theory says" if check.passed else "NOT AS THE THEORY SAYS: a formula is wrong"
    print(f"slope of the first-order error {first:.3f} ({FIRST_ORDER_SLOPE[0]} to {FIRST_ORDER_SLOPE[1]}), of the second-order "
          f"error {second:.3f} ({SECOND_ORDER_SLOPE[0]} to {SECOND_ORDER_SLOPE[1]}): {said}")  # fmt: skip


def print_gap(problem: OneStep, gradient: torch.Tensor, check: Check):
    """What the formula leaves out of the optimizer that people run."""

    class Gap(NamedTuple):
        eta: float
        gap: float

    print(f"\ntorch.optim, whose second moment sees the weighted gradient ({problem.state.kind}):")
    print("         eta   real change   gap to second order   gap / first-order change")
    gaps = []
    for row in check.fit:
        change = problem.change(gradient, row.eta, held=False)
        gaps.append(Gap(row.eta, abs(change - check.first * row.eta - check.second * row.eta**2)))
        print(f"{row.eta:12.3e}  {change:12.4e}  {gaps[-1].gap:20.3e}  {gaps[-1].gap / abs(check.first * row.eta):25.3f}")
    print(f"slope of the gap {slope(gaps, 'gap'):.3f}: an error of first order in eta, which holding the second moment makes")


def print_comparison(problem: OneStep, kinds: list[str], k: int, rates: list[float], strength: float | None):
    adaptive = problem.state.kind != "sgd"
    last = "  by torch.optim" * adaptive
    print(f"\nreal change of the target loss ({problem.loss:.6f}) after one step, k = {k} of {len(problem.pool)}:")
    print(f"         eta  weights       positive    predicted         real{last}")
    predictions: dict[bytes, tuple[float, float]] = {}  # of weights that are the same for every eta, once
    for eta in rates:
        for kind in kinds:
            weights, remark = problem.weights(kind, k, eta, strength)
            gradient = problem.mean_gradient(weights)
            if weights.tobytes() not in predictions:
                predictions[weights.tobytes()] = problem.prediction(gradient)
            first, second = predictions[weights.tobytes()]
            real = f"{problem.change(gradient, eta):11.4e}"
            if adaptive:
                real += f"     {problem.change(gradient, eta, held=False):11.4e}"
            predicted = first * eta + second * eta**2
            print(f"{eta:12.3e}  {kind:12}  {(weights > 0).sum():8}  {predicted:11.4e}  {real}  {remark}".rstrip())


def run(options: argparse.Namespace) -> bool:
    """Prints everything; False where the slopes are not what they must be."""
    problem, rows = prepare(options)
    rate = options.learning_rate or problem.state.learning_rate or default_rate(problem)
    k = count_or_percent("--select", options.select, len(problem.pool))
    if options.weights in KINDS:
        weights, remark = problem.weights(options.weights, k, rate, options.penalty)
    else:
        weights, remark = file_weights(Path(options.weights), rows, problem.pool), ""
    gradient = problem.gradient_by_training(weights)
    difference = float((gradient - problem.mean_gradient(weights)).norm() / gradient.norm())
    print(f"weights {options.weights} ({(weights > 0).sum()} positive{', ' * bool(remark)}{remark}); learning rate {rate:.3g}; "
          f"gradient of the weighted loss against the weighted sum of gradients: {difference:.1e} apart")  # fmt: skip
    check = problem.check(gradient)
    print_check(check)
    if problem.state.kind != "sgd":
        print_gap(problem, gradient, check)
    if options.compare:
        print_comparison(problem, options.compare, k, [rate / 4, rate, rate * 4], options.penalty)
    return check.passed
