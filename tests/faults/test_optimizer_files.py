"""Optimizer states that do not fit, and states of runs with another one."""

import re

import optimizer_states
import pytest
import torch
from program import run, run_alone
from tiny import load_model

BAD_INPUT, USAGE, STATE_MISMATCH = 3, 2, 6
TENSOR = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def state(inputs):
    model = load_model(inputs.model)
    return optimizer_states.state_of(model, optimizer_states.trained(model, inputs.pool))


def with_second_moment(state, change):
    """The state after change(second moments of TENSOR) -> what they become, None for nothing."""
    second = dict(state.moments["exp_avg_sq"])
    second[TENSOR] = change(second[TENSOR].clone())
    if second[TENSOR] is None:
        del second[TENSOR]
    return state._replace(moments={**state.moments, "exp_avg_sq": second})


def negative(tensor: torch.Tensor) -> torch.Tensor:
    tensor[7, 3] = -1e-12
    return tensor


def unknown(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0, 1] = float("nan")
    return tensor


@pytest.mark.parametrize("change,message", [
    (lambda t: None, rf"exp_avg_sq\.{TENSOR}: expected this tensor, as --parameters chooses its layer, found none"),
    (lambda t: t.T, rf"exp_avg_sq\.{TENSOR}: expected shape \[32, 56\] by the model's config.json, found \[56, 32\]"),
    (negative, rf"exp_avg_sq\.{TENSOR}: expected second moments that are finite and not negative, found -1e-12 at row 7, column 3"),
    (unknown, rf"exp_avg_sq\.{TENSOR}: expected second moments that are finite and not negative, found nan at row 0, column 1"),
], ids=["missing", "shape", "negative", "nan"])
def test_a_state_that_does_not_fit(inputs, state, tmp_path, change, message):
    file = optimizer_states.save(tmp_path / "bad.safetensors", with_second_moment(state, change))
    out = tmp_path / "weights.h5"
    said = run_alone(*inputs.arguments(out, "--propagation", "none", "--optimizer", file), exit_code=BAD_INPUT)
    assert re.search(rf"rank \d \(.+\): {file}: {message}", said), said
    assert not out.exists() and not out.with_name("weights.h5.state").exists()


def test_a_cut_state(inputs, state, tmp_path):
    file = optimizer_states.save(tmp_path / "cut.safetensors", state)
    file.write_bytes(file.read_bytes()[:-100])
    said = run(2, *inputs.arguments(tmp_path / "weights.h5", "--optimizer", file), exit_code=BAD_INPUT)
    assert re.search(rf"{file}: exp_avg.*: expected bytes \d+ to \d+, found \d+ bytes of data\. The file is cut\. Write it again", said)


def test_a_run_does_not_continue_with_another_state(inputs, command, state, tmp_path):
    out = tmp_path / "weights.h5"
    one, other = (optimizer_states.save(tmp_path / f"{step}.safetensors", state._replace(step=step)) for step in (3, 4))
    usable = len(inputs.pool) - len(inputs.reasons)
    interrupted = command("exact-tasks", out, "--select", usable + 1)  # known to be too many only when gradients are there
    run(2, *interrupted, "--optimizer", one, exit_code=USAGE)
    for extra in (["--optimizer", other], []):
        said = run_alone(*command("exact-tasks", out, *extra), exit_code=STATE_MISMATCH)
        assert re.search(rf"{out}\.state: .*optimizer sha256=", said), said
    run(2, *command("exact-tasks", out, "--optimizer", one))
