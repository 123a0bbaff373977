"""One weighted optimizer step: as the formulas of docs/method.md write it down, and as torch.optim takes it.

The formula says theta' = theta - eta * (a * g + b) with element-wise a and b, for SGD with or without momentum, and for
Adam and AdamW with the second moment held fixed. The real steps know nothing of a and b.
"""

from typing import NamedTuple

import torch

from idistill.exact_model import ExactModel
from idistill.optimizer_file import OptimizerState

HELD = -1e300  # far below every second moment


class Formula(NamedTuple):
    scale: torch.Tensor  # a
    constant: torch.Tensor  # b
    untouched: int  # numbers with a second moment of 0, where a = 0


def formula(state: OptimizerState, model: ExactModel) -> Formula:
    theta = model.weights()
    constants, decay = state.constants, state.weight_decay * theta
    if state.kind == "sgd":
        scale = torch.full_like(theta, 1 - constants["dampening"])
        if constants["momentum"] == 0:
            return Formula(scale, scale * decay, 0)
        return Formula(scale, constants["momentum"] * _vector(state, "momentum_buffer", model) + scale * decay, 0)
    beta1, beta2, step = constants["beta1"], constants["beta2"], state.step + 1
    second = _vector(state, "exp_avg_sq", model)
    denominator = (second / (1 - beta2**step)).sqrt() + constants["eps"]
    scale = torch.where(second == 0, 0.0, (1 - beta1) / (1 - beta1**step) / denominator)
    constant = beta1 / (1 - beta1**step) * _vector(state, "exp_avg", model) / denominator
    return Formula(scale, constant + (decay if state.kind == "adamw" else scale * decay), int((second == 0).sum()))


def _vector(state: OptimizerState, moment: str, model: ExactModel) -> torch.Tensor:
    return torch.cat([state.moments[moment][name].to(torch.float64).reshape(-1) for name in model.parameters])


def step(state: OptimizerState, model: ExactModel, gradient: torch.Tensor, eta: float, held: bool) -> torch.Tensor:
    """The weights after one step of torch.optim with this gradient; the model is left as it is.

    `held`: the second moment stays as it is. torch.optim divides by the largest second moment so far if asked to (amsgrad):
    that one is the state's, and the one that sees the gradient is far below it.
    """
    parameters = {n: torch.nn.Parameter(p.detach().clone()) for n, p in model.parameters.items()}
    for parameter, part in zip(parameters.values(), model.split(gradient)):
        parameter.grad = part.clone()
    optimizer = _optimizer(state, list(parameters.values()), eta, held)
    for name, parameter in parameters.items():
        optimizer.state[parameter] = _state_of(state, name, held)
    optimizer.step()
    if held and state.kind != "sgd":
        _keep_untouched(state, model, parameters, eta)
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])


def _optimizer(state: OptimizerState, parameters: list, eta: float, held: bool) -> torch.optim.Optimizer:
    own = state.constants
    if state.kind == "sgd":
        return torch.optim.SGD(parameters, eta, own["momentum"], own["dampening"], state.weight_decay)
    kind = torch.optim.AdamW if state.kind == "adamw" else torch.optim.Adam
    return kind(parameters, eta, (own["beta1"], own["beta2"]), own["eps"], state.weight_decay, amsgrad=held)


def _state_of(state: OptimizerState, name: str, held: bool) -> dict:
    own = {moment: tensors[name].to(torch.float64, copy=True) for moment, tensors in state.moments.items() if tensors}
    if state.kind == "sgd":
        return own
    if held:
        own["max_exp_avg_sq"] = own["exp_avg_sq"]
        own["exp_avg_sq"] = torch.full_like(own["exp_avg_sq"], HELD)
    return {"step": torch.tensor(float(state.step), dtype=torch.float64), **own}


@torch.no_grad()
def _keep_untouched(state: OptimizerState, model: ExactModel, parameters: dict, eta: float):
    """Weights that no gradient ever touched do not move, but for decoupled decay."""
    for name, parameter in parameters.items():
        untouched = state.moments["exp_avg_sq"][name] == 0
        kept = model.parameters[name] * (1 - eta * state.weight_decay * (state.kind == "adamw"))
        parameter.copy_(torch.where(untouched, kept, parameter))
