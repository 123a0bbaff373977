"""--optimizer: influence of a step of PyTorch's AdamW, against autograd and forward mode."""

import hashlib
from typing import NamedTuple

import numpy as np
import optimizer_states
import pytest
import torch
import truth
from idistill.result import Result
from program import assert_same, attributes, run
from tiny import Sample, load_model
from torch.func import functional_call, jvp

TOLERANCE = 1e-4
ALL = 1000  # more than there are: every sample of the pool stands for it
EXACT = ["--propagation", "none", "--contrast", 0]
CONTRASTED = ["--propagation", "none", "--contrast", ALL]
RUNS = {
    "samples": [*EXACT, "--sketch", "none"],
    "raw": [*EXACT, "--sketch", "none", "--normalize", "none"],
    "tasks": [*EXACT, "--columns", "tasks"],
    "raw-tasks": [*EXACT, "--columns", "tasks", "--normalize", "none"],
    "sketched": [*EXACT],
    "landmarks": ["--landmarks", 60, "--embedding", "hidden", "--sketch", "none", "--contrast", 0],
    "contrast": [*CONTRASTED, "--sketch", "none"],
    "contrast-tasks": [*CONTRASTED, "--columns", "tasks"],
}


class Truth(NamedTuple):
    model: torch.nn.Module
    a: np.ndarray  # (d)
    pool: np.ndarray  # (N x d) gradients, NaN for samples without
    targets: np.ndarray  # (M x d) of the usable targets
    task: np.ndarray  # (M)

    def mean_targets(self, cosine: bool) -> np.ndarray:
        rows = truth.unit_rows(self.targets) if cosine else self.targets
        return np.stack([rows[self.task == t].mean(0) for t in range(self.task.max() + 1)])


@pytest.fixture(scope="module")
def state(inputs, tmp_path_factory):
    """An AdamW state with some parameters that it has never touched, and its file."""
    model = load_model(inputs.model)
    optimizer = optimizer_states.trained(model, inputs.pool)
    optimizer.state[model.model.layers[1].mlp.down_proj.weight]["exp_avg_sq"][3, :5] = 0
    path = tmp_path_factory.mktemp("optimizer") / "optimizer.safetensors"
    return model, optimizer, optimizer_states.save(path, optimizer_states.state_of(model, optimizer))


@pytest.fixture(scope="module")
def expected(inputs, state) -> Truth:
    model, optimizer, _ = state
    usable = [(task, s) for task, own in enumerate(inputs.targets.values()) for s in own if truth.is_usable(s)]
    return Truth(model, optimizer_states.factors(model, optimizer).numpy(), truth.gradients(model, inputs.pool),
                 truth.gradients(model, [s for _, s in usable]), np.array([task for task, _ in usable]))


@pytest.fixture(scope="module")
def results(inputs, state, tmp_path_factory):
    """{name: path}, each computed when it is first asked for."""
    directory = tmp_path_factory.mktemp("results")
    said = {}

    def get(name):
        path = directory / f"{name}.h5"
        if name not in said:
            said[name] = run(2, *inputs.arguments(path, *RUNS[name], "--optimizer", state[2], *inputs.unit))
        return path, said[name]

    return get


def read(result, name="influence"):
    with Result(result[0]) as file:
        return file[name].astype(float)


def assert_close(found, expected, tolerance=TOLERANCE):
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)) < tolerance * np.nanmax(np.abs(expected))


def test_influence_is_the_cosine_of_the_step_and_the_target_gradient(results, expected):
    steps = expected.pool * expected.a
    assert_close(read(results("samples")), truth.unit_rows(steps) @ truth.unit_rows(expected.targets).T)
    assert_close(read(results("raw")), steps @ expected.targets.T)
    # It is another ranking than that of a plain gradient step.
    plain = truth.unit_rows(expected.pool) @ truth.unit_rows(expected.targets).T
    assert np.nanmax(np.abs(read(results("samples")) - plain)) > 0.05


def test_contraction_gives_the_means_over_tasks(results, expected):
    steps = expected.pool * expected.a
    assert_close(read(results("tasks")), truth.unit_rows(steps) @ expected.mean_targets(True).T)
    assert_close(read(results("raw-tasks")), steps @ expected.mean_targets(False).T)
    assert_close(read(results("tasks")), read(results("samples"), "score"), 1e-5)


def test_contrast_takes_the_mean_step_of_the_pool_out_of_the_targets(results, expected):
    steps = truth.unit_rows(expected.pool * expected.a)
    targets = truth.without(truth.unit_rows(expected.targets), np.nanmean(steps, 0))
    assert_close(read(results("contrast")), steps @ targets.T)
    assert_close(read(results("contrast-tasks")), read(results("contrast"), "score"), 1e-5)
    assert np.nanmax(np.abs(read(results("contrast")) - read(results("samples")))) > 0.01


@pytest.mark.parametrize("name", ["samples", "tasks", "sketched"])
def test_norms_are_those_of_the_step(results, expected, name):
    norms = np.linalg.norm(expected.pool * expected.a, axis=1)
    usable = np.isfinite(norms)
    found = read(results(name), "gradient_norm")
    assert np.abs(found[usable] / norms[usable] - 1).max() < TOLERANCE
    assert not np.isfinite(found[~usable]).any()


def test_a_sketch_keeps_influence_roughly(results):
    error = read(results("sketched")) - read(results("samples"))
    assert 0 < np.nanmax(np.abs(error)) < 0.4 and np.nanstd(error) < 0.1


def test_landmarks_have_the_influence_of_the_step(results):
    index = read(results("landmarks"), "landmark/index").astype(int)
    assert_close(read(results("landmarks"), "landmark/influence"), read(results("samples"))[index], 1e-5)


def loss(model: torch.nn.Module, parameters: dict[str, torch.Tensor], sample: Sample) -> torch.Tensor:
    tokens = torch.tensor(sample.tokens, dtype=torch.long)
    logits = functional_call(model, parameters, (tokens[None],)).logits[0].log_softmax(-1)
    at = np.flatnonzero(sample.mask[1:]) + 1
    return -logits[at - 1, tokens[at]].mean()


def test_forward_mode_finds_the_same_products(inputs, results, expected):
    """<a*g_i, u> is the derivative of l_i in the direction a*u: one tangent pass through all blocks, without any gradient of l_i."""
    found = read(results("raw-tasks"))
    norms = read(results("raw-tasks"), "gradient_norm")
    parameters = {n: p.detach() for n, p in expected.model.named_parameters() if n.endswith(optimizer_states.DOWN)}
    assert [n for n in parameters] == [f"model.layers.{b}.{optimizer_states.DOWN}" for b in range(5)]
    rows = [i for i, s in enumerate(inputs.pool) if truth.is_usable(s)][:20]
    for task, u in enumerate(expected.mean_targets(False)):
        parts = torch.tensor(expected.a * u, dtype=torch.float32).split([p.numel() for p in parameters.values()])
        tangents = {n: part.view(p.shape) for (n, p), part in zip(parameters.items(), parts)}
        for row in rows:
            _, derivative = jvp(lambda p: loss(expected.model, p, inputs.pool[row]), (parameters,), (tangents,))  # noqa: B023
            assert abs(found[row, task] - derivative.item()) < TOLERANCE * norms[row] * np.linalg.norm(u)


def test_any_number_of_ranks_and_what_is_said(inputs, state, results, tmp_path):
    path, said = results("tasks")
    assert "5 of 8960 parameters (0.056 %) were never touched by the optimizer" in said, said
    assert attributes(path)["optimizer_sha256"] == hashlib.sha256(state[2].read_bytes()).hexdigest()
    for ranks in (1, 3):
        again = tmp_path / f"{ranks}.h5"
        run(ranks, *inputs.arguments(again, *RUNS["tasks"], "--optimizer", state[2], *inputs.unit))
        assert_same(again, path)


def test_weights_at_a_learning_rate_that_is_found_gain_no_less_than_those_of_first_order(results, tmp_path):
    """As second order without the constant part of the step has it: many steps, of which none has this one's."""
    source, _ = results("sketched")
    gain = {}
    for order in ("first-order", "second-order"):
        out = tmp_path / f"{order}.h5"
        run(2, "select", "--result", source, "--out", out, "--selection", "weighted", "--select", 12, "--order", order)
        with Result(out) as result:
            weight = result["weight"].astype(float)
            usable = weight > 0
            influence = result["influence"].astype(float)[usable]
            counts = result["column/label_tokens"] * result["column/gradient_norm"] / influence.shape[1]
            curved = (counts * (weight[usable] @ influence) ** 2).sum() / len(weight)
            rate = result.attributes["weights_learning_rate"]
        gain[order] = weight[usable] @ influence.mean(1) / np.sqrt(curved)
    assert rate > 0 and gain["second-order"] > gain["first-order"] > 0


def test_a_step_whose_constant_part_outweighs_the_samples_is_warned_of(results, tmp_path):
    source, _ = results("sketched")
    warned = []
    for rate in (1e-6, 1, 1e3):
        out = tmp_path / f"{rate}.h5"
        said = run(2, "select", "--result", source, "--out", out, "--select", 12, "--learning-rate", rate)
        weight = read((out,), "weight")
        mean = weight[weight > 0] @ read((out,))[weight > 0].mean(1) / len(weight)
        warned.append(f"warning: these weights have a mean influence of {mean:.3g}: in a step of --learning-rate {rate:.3g} " in said)
        assert warned[-1] == (mean < 0) == ("warning: these weights" in said) and "longer than gains most" not in said
    assert set(warned) == {False, True}


def test_plan_counts_the_factors(inputs, state, tmp_path):
    said = run(2, "plan", *inputs.arguments(tmp_path / "out.h5", *RUNS["tasks"], "--optimizer", state[2]))
    assert "optimizer's factors, beside them" in said and "35.8 kB" in said, said  # 5 x 32 x 56 numbers


def test_sgd_without_buffers_is_a_plain_step(inputs, state, tmp_path):
    plain, sgd = tmp_path / "plain.h5", tmp_path / "sgd.h5"
    file = optimizer_states.save(tmp_path / "sgd.safetensors", optimizer_states.state_of(*state[:2])._replace(
        kind="sgd", constants={"momentum": 0.0, "dampening": 0.0}, moments={}))
    run(2, *inputs.arguments(plain, *RUNS["tasks"], *inputs.unit))
    run(2, *inputs.arguments(sgd, *RUNS["tasks"], "--optimizer", file, *inputs.unit))
    for name in ("influence", "gradient_norm"):
        assert np.array_equal(read((sgd,), name), read((plain,), name), equal_nan=True)
    assert "optimizer_sha256" not in attributes(plain)
