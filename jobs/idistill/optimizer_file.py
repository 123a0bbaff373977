"""Optimizer states: what `idistill_mpi --optimizer` reads (safetensors).

    exp_avg.<parameter>, exp_avg_sq.<parameter>   f32, of Adam and AdamW
    momentum_buffer.<parameter>                   f32, of SGD with momentum

Parameters have their names in the model's safetensors. Metadata, all strings: kind ("adamw", "adam" or "sgd"), step (that
the optimizer has taken), learning_rate, weight_decay; of Adam and AdamW also beta1, beta2, eps, of SGD momentum, dampening.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from idistill.whole_files import written_whole

CONSTANTS = {"adamw": ("beta1", "beta2", "eps"), "adam": ("beta1", "beta2", "eps"), "sgd": ("momentum", "dampening")}
MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class OptimizerState(NamedTuple):
    """State of an optimizer after `step` steps."""

    kind: str  # "adamw", "adam" (weight decay added to the gradient) or "sgd"
    step: int
    learning_rate: float
    weight_decay: float
    constants: dict[str, float]  # CONSTANTS[kind]
    moments: dict[str, dict[str, torch.Tensor]]  # {moment: {parameter: tensor of the parameter's shape}}, MOMENTS[kind]


def write(path: Path, state: OptimizerState):
    tensors = {
        f"{moment}.{parameter}": tensor.to(torch.float32).contiguous()
        for moment, of_parameters in state.moments.items()
        for parameter, tensor in of_parameters.items()
    }
    numbers = {"learning_rate": state.learning_rate, "weight_decay": state.weight_decay, **state.constants}
    metadata = {"kind": state.kind, "step": str(state.step), **{name: repr(float(v)) for name, v in numbers.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        save_file(tensors, partial, metadata)
        with open(partial, "rb") as written:
            os.fsync(written.fileno())


def read(path: Path, parameters: Mapping[str, torch.Size], dtype: torch.dtype = torch.float32) -> OptimizerState:
    """The state of these parameters alone, given with their shapes. Raises ValueError and OSError."""
    try:
        with safe_open(path, "pt") as file:
            return _read(path, file, parameters, dtype)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); write one with jobs/optimizer_state.py") from error


def _read(path: Path, file, parameters: Mapping[str, torch.Size], dtype: torch.dtype) -> OptimizerState:
    metadata = file.metadata() or {}
    kind = metadata.get("kind", "adamw")
    if kind not in CONSTANTS:
        raise ValueError(f"{path}: 'kind' is {kind!r}, expected one of {', '.join(CONSTANTS)}; write the file with "
                         "jobs/optimizer_state.py")  # fmt: skip

    def number(name: str) -> float:
        try:
            return float(metadata[name])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: '{name}' is {metadata.get(name)!r} in the metadata, expected a number") from error

    stored = set(file.keys())
    moments = {moment: {} for moment in MOMENTS[kind]}
    needed = {} if kind == "sgd" and number("momentum") == 0 else moments
    for moment, tensors in needed.items():
        for parameter, shape in parameters.items():
            name = f"{moment}.{parameter}"
            if name not in stored:
                raise ValueError(f"{path}: has no '{name}'; expected the state of an optimizer that trained this parameter")
            tensors[parameter] = file.get_tensor(name).to(dtype)
            if tensors[parameter].shape != shape:
                raise ValueError(f"{path}: '{name}' has the shape {list(tensors[parameter].shape)}, expected {list(shape)} as "
                                 "in the model; give the state of an optimizer of this model")  # fmt: skip
    constants = {name: number(name) for name in CONSTANTS[kind]}
    return OptimizerState(kind, int(number("step")), number("learning_rate"), number("weight_decay"), constants, moments)
