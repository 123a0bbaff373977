"""Checkpoints of a training for --influence less, and its influence from transformers, autograd and numpy alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import optimizer_states
import torch
import truth
from idistill.optimizer_file import OptimizerState
from tiny import Sample, load_model


EPSILON = 1e-4  # large enough to tell where it is added


class Checkpoint(NamedTuple):
    directory: Path
    state: OptimizerState

    def model(self) -> torch.nn.Module:
        return load_model(self.directory).double()


def save_checkpoint(directory: Path, model: torch.nn.Module, samples: list[Sample], seed: int) -> Checkpoint:
    """The model with a state of AdamW on its down_proj layers, beside it."""
    model.save_pretrained(directory)
    state = optimizer_states.state_of(model, optimizer_states.trained(model, samples, seed))
    state = state._replace(constants={**state.constants, "eps": EPSILON})
    optimizer_states.save(directory / "optimizer.safetensors", state)
    return Checkpoint(directory, state)


def moved_on(model: torch.nn.Module, seed: int, unknown: int | None = None) -> torch.nn.Module:
    """Other weights of the same model; a token `unknown` has no finite embedding either."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=random))
        if unknown is not None:
            model.model.embed_tokens.weight[unknown] = float("nan")
    return model


def moments(model: torch.nn.Module, state: OptimizerState, kind: str) -> np.ndarray:
    """(d, fp64) of all down_proj layers, one after the other."""
    names = [name for name, _ in model.named_parameters() if name.endswith(optimizer_states.DOWN)]
    return torch.cat([state.moments[kind][name].flatten() for name in names]).double().numpy()


def steps(gradients: np.ndarray, m: np.ndarray, v: np.ndarray, state: OptimizerState, form: str = "paper") -> np.ndarray:
    """(n x d) Gamma of LESS, section 2.2; `form` "released" as its code has it, "v held" with second moments as they were."""
    beta1, beta2, epsilon = (state.constants[name] for name in ("beta1", "beta2", "eps"))
    first = beta1 * m + (1 - beta1) * gradients
    second = v if form == "v held" else beta2 * v + (1 - beta2) * gradients**2
    if form == "released":
        return first / np.sqrt(second + epsilon)
    after = state.step + 1
    return first / (1 - beta1**after) / (np.sqrt(second / (1 - beta2**after)) + epsilon)


class Labels(NamedTuple):
    """Gradients of pool and targets at a checkpoint; NaN for samples without."""

    checkpoint: Checkpoint
    m: np.ndarray
    v: np.ndarray
    pool: np.ndarray
    targets: np.ndarray

    def influence(self, form: str = "paper") -> np.ndarray:
        """(N x M) cosines."""
        gamma = steps(self.pool, self.m, self.v, self.checkpoint.state, form)
        return truth.unit_rows(gamma) @ truth.unit_rows(self.targets).T


def labels(checkpoint: Checkpoint, pool: list[Sample], targets: list[Sample]) -> Labels:
    model = checkpoint.model()
    m, v = (moments(model, checkpoint.state, kind) for kind in ("exp_avg", "exp_avg_sq"))
    return Labels(checkpoint, m, v, truth.gradients(model, pool), truth.gradients(model, targets))
