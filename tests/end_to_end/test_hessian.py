"""--curvature hessian: columns, weights and the optimizer's constant step, against autograd, scipy and numpy."""

import functools

import numpy as np
import optimizer_states
import pytest
import scipy.sparse.linalg
import torch
import truth
from program import attributes, datasets, run, run_alone
from test_weighted import optimum, selected
from tiny import load_model

RATE = 0.05
LEADING = 3  # of the 24 Ritz pairs, those that have converged
SECOND = ["--selection", "weighted", "--order", "second-order", "--curvature", "hessian", "--learning-rate", RATE]
RANKED = [*SECOND, "--curvature-rank", 24, "--select", 25]
EXACT = ["--propagation", "none"]
RUNS = {
    "samples": ["--sketch", "none", "--contrast", 0],
    "raw": ["--sketch", "none", "--contrast", 0, "--normalize", "none"],
    "tasks": ["--columns", "tasks", "--contrast", 0],
    "contrast": ["--sketch", "none", "--contrast", 1000],  # more than there are: every sample of the pool
    "contrast-tasks": ["--columns", "tasks", "--contrast", 1000],
}


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("hessian")

    def get(name):
        path = directory / f"{name}.h5"
        if not path.exists():
            run(2, *inputs.arguments(path, *RANKED, *EXACT, *RUNS[name], *inputs.unit))
        return path

    return get


@pytest.fixture(scope="module")
def plain(inputs, tmp_path_factory):
    """The same influences as of "samples", without a curvature."""
    path = tmp_path_factory.mktemp("plain") / "plain.h5"
    run(2, *inputs.arguments(path, *SECOND[:2], "--select", 25, *EXACT, *RUNS["samples"], *inputs.unit))
    return path


@pytest.fixture(scope="module")
def model(inputs):
    return load_model(inputs.model).double()


@pytest.fixture(scope="module")
def pool_gradients(inputs, model):
    return truth.gradients(model, inputs.pool)


class TargetLoss:
    """The mean over the columns, as the program weighs the targets."""

    def __init__(self, model, inputs, name):
        self.weights = [layer.mlp.down_proj.weight for layer in model.model.layers]
        targets = [(task, s) for task, own in enumerate(inputs.targets.values()) for s in own if truth.is_usable(s)]
        norms = np.linalg.norm(truth.gradients(model, [s for _, s in targets]), axis=1)
        members = np.bincount([task for task, _ in targets])
        self.scales = np.array([1 / len(members) / members[task] if "tasks" in name else 1 / len(targets) for task, _ in targets])
        if name != "raw":
            self.scales /= norms
        loss = torch.as_tensor(self.scales) @ losses(model, [s for _, s in targets])
        self.gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, self.weights, create_graph=True)])

    def hessian_times(self, v):
        along = self.gradient @ torch.as_tensor(v.ravel())
        return torch.cat([g.flatten() for g in torch.autograd.grad(along, self.weights, retain_graph=True)]).numpy()


def losses(model, samples):
    """(n) of a batch that is filled up behind the samples, where causal attention sees nothing of it."""
    tokens, mask = (torch.nn.utils.rnn.pad_sequence([torch.as_tensor(own, dtype=torch.long) for own in each], batch_first=True)
                    for each in ([s.tokens for s in samples], [s.mask for s in samples]))
    log_probabilities = model(tokens).logits[:, :-1].log_softmax(-1)
    own = log_probabilities.gather(2, tokens[:, 1:, None]).squeeze(2)
    return -(own * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)


@pytest.fixture(scope="module")
def leading_pairs(inputs, model):
    """(values, vectors) of the Hessian of a run's target loss, the largest first; a contrast changes nothing of it."""

    @functools.cache
    def get(name):
        loss = TargetLoss(model, inputs, name)
        operator = scipy.sparse.linalg.LinearOperator((len(loss.gradient),) * 2, loss.hessian_times, dtype=float)
        values, vectors = scipy.sparse.linalg.eigsh(operator, LEADING, which="LM", tol=1e-9)
        order = np.argsort(-np.abs(values))
        return values[order], vectors[:, order]

    return lambda name: get({"contrast": "samples", "contrast-tasks": "tasks"}.get(name, name))


@pytest.mark.parametrize("name", RUNS)
def test_leading_columns_are_those_of_the_hessian(results, leading_pairs, pool_gradients, name):
    usable = np.isfinite(pool_gradients).all(1)
    common = np.zeros(pool_gradients.shape[1])
    if "contrast" in name:
        common = truth.unit_rows(pool_gradients[usable]).mean(0)
        common /= np.linalg.norm(common)

    values, vectors = leading_pairs(name)
    found = selected(results(name), "curvature/value")
    assert len(found) == 24 and (np.diff(np.abs(found)) <= 0).all()
    assert np.abs(found[:LEADING] - values).max() < 1e-3 * np.abs(values).max()

    gradients = pool_gradients if name == "raw" else truth.unit_rows(pool_gradients)
    expected = np.sqrt(np.abs(values)) * (gradients @ (vectors - np.outer(common, common @ vectors)))
    factor = selected(results(name), "curvature/factor").astype(float)
    assert np.array_equal(np.isfinite(factor).all(1), usable) and np.isnan(factor[~usable]).all()
    for j in range(LEADING):
        sign = np.sign(factor[usable, j] @ expected[usable, j])
        error = np.linalg.norm(factor[usable, j] - sign * expected[usable, j])
        assert error < 0.02 * np.linalg.norm(expected[usable, j]), j


def weights_by_scipy(path, p, usable, count, **limits):
    """(n) of the usable rows, by the factor in the file, its negative directions left out."""
    found = attributes(path)
    value = selected(path, "curvature/value")
    assert found["weights_clipped"] == (value < 0).sum()
    factor = selected(path, "curvature/factor")[usable].astype(float)[:, value > 0]
    weight = selected(path, "weight")[usable]
    kept = weight > 0 if found["weights_reachable"] > found["weights_support"] else np.ones(len(weight), bool)
    matrix = RATE / count * factor[kept] @ factor[kept].T + found["weights_lambda"] * np.eye(kept.sum())
    expected = np.zeros(len(weight))
    expected[kept] = optimum(p[kept], matrix, count, **limits)
    return expected


@pytest.mark.parametrize("name", ["samples", "raw", "contrast-tasks"])
def test_weights_are_optimal_by_the_columns(inputs, results, name):
    path = results(name)
    influence = selected(path, "influence").astype(float)
    usable = np.flatnonzero(np.isfinite(influence).all(1))
    expected = weights_by_scipy(path, influence[usable].mean(1), usable, len(inputs.pool))
    weight = selected(path, "weight")[usable]
    assert np.abs(weight - expected).max() < 1e-5 * expected.max()
    assert attributes(path)["weights_support"] == 25


def test_limits_hold_with_the_columns(inputs, results, tmp_path):
    path = tmp_path / "limited.h5"
    run(2, "select", "--result", results("samples"), "--out", path, *SECOND, "--select", 25, "--max-weight", "1.5x")
    influence = selected(path, "influence").astype(float)
    usable = np.flatnonzero(np.isfinite(influence).all(1))
    largest = 1.5 * len(inputs.pool) / 25
    expected = weights_by_scipy(path, influence[usable].mean(1), usable, len(inputs.pool), largest=largest)
    weight = selected(path, "weight")[usable]
    assert np.abs(weight - expected).max() < 1e-5 * largest
    assert selected(results("samples"), "weight").max() > 1.01 * largest


def test_select_takes_the_columns_from_the_result(results, plain, tmp_path):
    run(2, "select", "--result", results("samples"), "--out", tmp_path / "again.h5", *SECOND, "--select", 25)
    assert datasets(tmp_path / "again.h5") == datasets(results("samples"))
    first = [*SECOND[:2], "--select", 25]
    run_alone("select", "--result", results("samples"), "--out", tmp_path / "first.h5", *first)
    found, expected = selected(tmp_path / "first.h5", "weight"), selected(plain, "weight")
    assert np.abs(found - expected).max() < 1e-4 * expected.max()
    said = run_alone("select", "--result", plain, "--out", tmp_path / "no.h5", *SECOND, "--select", 25, exit_code=3)
    assert "curvature = hessian, for a selection by it" in said


def test_other_columns_are_what_they_are_without(results, plain):
    for name in ("influence", "score", "gradient_norm"):  # of products that are wider, and so not of the same bits
        found, expected = selected(results("samples"), name), selected(plain, name)
        assert np.allclose(found, expected, rtol=0, atol=1e-5 * np.nanmax(np.abs(expected)), equal_nan=True), name


@pytest.mark.parametrize("name", ["samples", "raw"])
def test_columns_propagate_with_the_influence(inputs, results, model, pool_gradients, name, tmp_path):
    """By the kernel ridge regression that test_meaning.py does again for the influence; refined ones are exact."""
    path = tmp_path / "out.h5"
    run(2, *inputs.arguments(path, *RANKED, *RUNS[name], "--landmarks", 80, "--embedding", "hidden", "--jvp-blocks", 2, "--refine", 3,
                             *inputs.unit))
    usable = np.array([truth.is_usable(s) for s in inputs.pool])
    samples = [s for s in inputs.pool if truth.is_usable(s)]
    found, expected = (selected(file, "curvature/factor")[usable] for file in (path, results(name)))
    exact = selected(path, "exact")[usable] == 1
    tolerance = 2e-3 * np.nanmax(np.abs(expected))
    assert np.allclose(found[exact], expected[exact], rtol=0, atol=tolerance)

    row = selected(path, "landmark/index")
    landmarks = (np.cumsum(usable) - 1)[row[usable[row]]]
    kernel, _ = truth.ridge_kernel(truth.hidden_embeddings(model, samples, 2), samples, landmarks)
    norms = np.linalg.norm(pool_gradients[usable], axis=1)[:, None] if name == "raw" else np.ones((len(samples), 1))
    attribute = attributes(path)

    def fit(labels, intercept):
        coefficients, offset = truth.ridge(kernel[landmarks], labels, attribute["damping"], intercept)
        return kernel @ coefficients + offset

    predicted = fit((expected / norms)[landmarks], True) * np.exp(fit(np.log(norms)[landmarks], True))
    assert (~exact).sum() > 20 and exact.sum() > len(landmarks)
    assert np.allclose(found[~exact], predicted[~exact], rtol=0, atol=tolerance)


def test_the_constant_step_moves_what_is_optimal(inputs, model, pool_gradients, tmp_path):
    plain = load_model(inputs.model)
    optimizer = optimizer_states.trained(plain, inputs.pool)
    state = optimizer_states.state_of(plain, optimizer)
    file = optimizer_states.save(tmp_path / "optimizer.safetensors", state)
    b = []
    for layer in plain.model.layers:
        own = optimizer.state[layer.mlp.down_proj.weight]
        s, (beta1, beta2) = own["step"].item() + 1, optimizer.param_groups[0]["betas"]
        root = (own["exp_avg_sq"].double() / (1 - beta2**s)).sqrt() + optimizer.param_groups[0]["eps"]
        first = beta1 / (1 - beta1**s) * own["exp_avg"].double() / root
        b.append((first + 0.01 * layer.mlp.down_proj.weight.detach().double()).flatten())
    b = torch.cat(b).numpy()
    targets = [s for own in inputs.targets.values() for s in own if truth.is_usable(s)]
    gradients = truth.gradients(model, targets)

    fisher = [*SECOND[:4], "--learning-rate", RATE, "--select", 25, "--propagation", "none", "--sketch", "none",
              "--optimizer", file, "--contrast", 0]
    run(2, *inputs.arguments(tmp_path / "fisher.h5", *fisher, *inputs.unit))
    found = selected(tmp_path / "fisher.h5", "column/step_product")
    expected = truth.unit_rows(gradients) @ b
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    influence = selected(tmp_path / "fisher.h5", "influence").astype(float)
    usable = np.flatnonzero(np.isfinite(influence).all(1))
    tokens, norm = (selected(tmp_path / "fisher.h5", f"column/{x}").astype(float) for x in ("label_tokens", "gradient_norm"))
    scale = RATE * tokens * norm / len(tokens)
    p = influence[usable].mean(1) - influence[usable] @ (scale * found)
    weight = selected(tmp_path / "fisher.h5", "weight")[usable]
    kept = weight > 0
    attribute = attributes(tmp_path / "fisher.h5")
    matrix = (influence[usable][kept] * scale) @ influence[usable][kept].T / len(inputs.pool)
    best = optimum(p[kept], matrix + attribute["weights_lambda"] * np.eye(kept.sum()), len(inputs.pool))
    assert np.abs(weight[kept] - best).max() < 1e-4 * best.max()

    path = tmp_path / "hessian.h5"
    run(2, *inputs.arguments(path, *RANKED, *EXACT, *RUNS["samples"], "--optimizer", file, *inputs.unit))
    value, step = selected(path, "curvature/value"), selected(path, "curvature/step_product")
    factor = selected(path, "curvature/factor")[usable].astype(float)
    p = selected(path, "influence")[usable].astype(float).mean(1) - RATE * factor @ (np.sign(value) * step)
    expected = weights_by_scipy(path, p, usable, len(inputs.pool))
    assert np.abs(selected(path, "weight")[usable] - expected).max() < 1e-4 * expected.max()
    run(2, "select", "--result", path, "--out", tmp_path / "again.h5", *SECOND, "--select", 25)
    assert np.array_equal(selected(tmp_path / "again.h5", "weight"), selected(path, "weight"))
