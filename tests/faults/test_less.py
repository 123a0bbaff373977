"""--influence less: killed in a stage of the second checkpoint, and checkpoints that do not fit."""

import json
import shutil

import less_truth
import optimizer_states
import pytest
from interrupting import continuing, interrupt
from program import assert_same, run, run_alone
from tiny import load_model
from transformers import AutoModelForCausalLM

BAD_INPUT, USAGE, STATE_MISMATCH = 3, 2, 6
LESS = ["--influence", "less", "--propagation", "none", "--columns", "tasks"]


@pytest.fixture(scope="module")
def checkpoints(inputs, tmp_path_factory) -> list[str]:
    directory = tmp_path_factory.mktemp("checkpoints")
    for name, seed in (("first", 0), ("second", 2)):
        model = less_truth.moved_on(load_model(inputs.model), seed)
        less_truth.save_checkpoint(directory / name, model, inputs.pool[:60], seed)
    return [f"{directory / 'first'}:2e-5", f"{directory / 'second'}:1e-5"]


@pytest.fixture(scope="module")
def fine(inputs, checkpoints):
    return lambda out: inputs.arguments(out, *LESS, "--checkpoint", *checkpoints, "--unit-flops", 1)


@pytest.fixture(scope="module")
def reference(fine, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "weights.h5"
    run(2, *fine(out))
    return out


def test_killed_among_the_units(fine, reference, tmp_path):
    out = tmp_path / "weights.h5"
    done = interrupt(2, fine(out), out, "targets 2", 30, 1)
    done = interrupt(3, fine(out), out, "directions 2", 4, 0, kept=done)
    assert continuing(done) in run(1, *fine(out))
    assert_same(out, reference)


def test_killed_while_landmarks_are_labelled(inputs, checkpoints, tmp_path):
    def arguments(out):
        return inputs.arguments(out, "--influence", "less", "--columns", "tasks", "--landmarks", 80, "--embedding", "hidden",
                                "--checkpoint", *checkpoints, "--unit-flops", 1)  # fmt: skip

    run(2, *arguments(tmp_path / "whole.h5"))
    out = tmp_path / "weights.h5"
    done = interrupt(3, arguments(out), out, "landmarks", 35, 1)
    assert continuing(done) in run(2, *arguments(out))
    assert_same(out, tmp_path / "whole.h5")


def test_other_rates_or_another_state_are_another_run(inputs, fine, checkpoints, tmp_path):
    out = tmp_path / "weights.h5"
    interrupt(2, fine(out), out, "targets 2", 10, 1)
    other = inputs.arguments(out, *LESS, "--checkpoint", checkpoints[0], checkpoints[1] + "1", "--unit-flops", 1)
    assert "checkpoints" in run(2, *other, exit_code=STATE_MISMATCH)


def refused(inputs, tmp_path, *arguments, code):
    out = tmp_path / "weights.h5"
    said = run_alone(*inputs.arguments(out, *LESS, *arguments), exit_code=code)
    assert not list(tmp_path.glob("weights*")), said
    return said


@pytest.mark.parametrize("text,expected", [
    ("warm", "expected DIR:LR, a model directory and its learning rate, found 'warm'"),
    (":1e-5", "expected DIR:LR, a model directory and its learning rate, found ':1e-5'"),
    ("warm:", "expected DIR:LR, LR a number above 0, found 'warm:'"),
    ("warm:fast", "expected DIR:LR, LR a number above 0, found 'warm:fast'"),
    ("warm:0", "expected DIR:LR, LR a number above 0, found 'warm:0'"),
    ("warm:-1e-5", "expected DIR:LR, LR a number above 0, found 'warm:-1e-5'"),
    ("warm:inf", "expected DIR:LR, LR a number above 0, found 'warm:inf'"),
])
def test_what_is_no_checkpoint(inputs, tmp_path, text, expected):
    assert f"--checkpoint: {expected}" in refused(inputs, tmp_path, "--checkpoint", text, code=USAGE)


def test_the_same_checkpoint_twice(inputs, checkpoints, tmp_path):
    assert "expected every checkpoint once, found" in refused(inputs, tmp_path, "--checkpoint", *checkpoints, checkpoints[0], code=USAGE)


def test_without_any_optimizer(inputs, tmp_path):
    said = refused(inputs, tmp_path, code=USAGE)
    assert "expected the moments of an optimizer: --optimizer FILE, or --checkpoint DIR:LR, found neither. jobs/warmup.py" in said


def test_a_checkpoint_without_its_optimizer(inputs, tmp_path):
    said = refused(inputs, tmp_path, "--checkpoint", f"{inputs.model}:1", code=BAD_INPUT)
    assert f"{inputs.model}: optimizer.safetensors: expected the optimizer's state beside the weights, found none. jobs/warmup.py" in said


def test_a_checkpoint_of_another_model(inputs, checkpoints, tmp_path):
    first = checkpoints[0].rpartition(":")[0]
    config = load_model(inputs.model).config
    config.rms_norm_eps = 1e-3
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    shutil.copy(f"{first}/optimizer.safetensors", tmp_path / "other")
    said = refused(inputs, tmp_path, "--checkpoint", checkpoints[0], f"{tmp_path / 'other'}:1e-5", code=BAD_INPUT)
    assert f"{tmp_path / 'other'}: config.json: expected that of --model {inputs.model}: llama" in said and "epsilon 0.001" in said


def test_a_checkpoint_of_another_tokenizer(inputs, checkpoints, tmp_path):
    """Where both have one; the same in another order of its file is the same."""
    model, other = tmp_path / "model", tmp_path / "other"
    shutil.copytree(inputs.model, model)
    shutil.copytree(checkpoints[0].rpartition(":")[0], other)
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}, "added_tokens": []}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))

    def plan(exit_code=0):
        given = inputs.arguments(tmp_path / "weights.h5", *LESS, "--checkpoint", f"{other}:1e-5")
        given[given.index("--model") + 1] = model
        return run_alone("plan", *given, exit_code=exit_code)

    assert "1 checkpoints" in plan()  # it has none
    turned = {"merges": [["a", "b"]], "vocab": {"ab": 2, "b": 1, "a": 0}}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer | {"model": turned}))
    assert "1 checkpoints" in plan()
    (other / "tokenizer.json").write_text(json.dumps(tokenizer | {"model": turned | {"vocab": {"a": 0, "b": 2, "ab": 1}}}))
    said = plan(BAD_INPUT)
    assert f"{other}: tokenizer.json: expected that of --model {model}, found another. Checkpoints are of one model" in said


def test_the_state_of_sgd(inputs, checkpoints, tmp_path):
    model = load_model(inputs.model)
    state = optimizer_states.state_of(model, optimizer_states.trained(model, inputs.pool[:60]))
    file = optimizer_states.save(tmp_path / "sgd.safetensors", state._replace(
        kind="sgd", constants={"momentum": 0.0, "dampening": 0.0}, moments={}))
    said = refused(inputs, tmp_path, "--optimizer", file, code=BAD_INPUT)
    assert f"{file}: metadata kind: expected adamw or adam, found sgd. This influence is of a step of Adam" in said


def test_second_order_by_the_hessian_is_refused(inputs, checkpoints, tmp_path):
    said = refused(inputs, tmp_path, "--checkpoint", *checkpoints, "--selection", "weighted", "--order", "second-order", "--curvature",
                   "hessian", "--learning-rate", 0.1, code=USAGE)
    assert "--curvature: expected fisher, as this influence has no curvature of its own, found hessian" in said
