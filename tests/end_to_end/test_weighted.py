"""Optimal weights through the program, against scipy and the closed form in numpy."""

import h5py
import numpy as np
import pytest
import scipy.optimize
import truth
from program import attributes, datasets, run, text
from tiny import load_model

RATE = 0.05
EXACT = ["--propagation", "none", "--sketch", "none"]
WEIGHTED = ["--selection", "weighted"]
SECOND = [*WEIGHTED, "--influence", "second-order", "--learning-rate", RATE]


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory):
    """Paths by normalisation, each computed when it is first asked for; selected by first-order weights."""
    directory = tmp_path_factory.mktemp("weighted")

    def get(normalize):
        path = directory / f"{normalize}.h5"
        if not path.exists():
            run(2, *inputs.arguments(path, *EXACT, *inputs.unit, *WEIGHTED, "--select", 30, "--normalize", normalize))
        return path

    return get


def selected(path, name):
    with h5py.File(path) as file:
        return file[name][()]


def usable_influence(path):
    """(n x M), and the rows of the pool."""
    influence = selected(path, "influence").astype(float)
    usable = np.flatnonzero(np.isfinite(influence).all(1))
    return influence[usable], usable


def by_scipy(p, matrix, threshold):
    """Minimum of -(p - threshold).w + w' matrix w / 2 over w >= 0: where it adds up to N, the optimum with that constraint."""
    factor = np.linalg.cholesky(matrix)
    return scipy.optimize.nnls(factor.T, np.linalg.solve(factor, p - threshold))[0]


def test_first_order_is_the_closed_form(inputs, results):
    path = results("cosine")
    influence, usable = usable_influence(path)
    p = influence.mean(1)
    order = np.argsort(-p, kind="stable")
    threshold = p[order[30]]
    assert threshold < p[order[29]]
    expected = np.zeros(len(inputs.pool))
    expected[usable] = np.maximum(0, p - threshold)
    penalty = expected.sum() / len(expected)
    expected /= penalty
    weight = selected(path, "weight")
    assert np.allclose(weight, expected, rtol=1e-5, atol=1e-6) and (weight > 0).sum() == 30
    assert list(selected(path, "selected/index")) == [usable[i] for i in order[:30]]
    assert np.allclose(selected(path, "selected/weight"), expected[usable[order[:30]]] * 30 / len(expected), rtol=1e-5)
    assert (selected(path, "selected/column") == -1).all()
    found = attributes(path)
    assert np.isclose(found["weights_lambda"], penalty) and np.isclose(found["weights_threshold"], threshold)
    assert found["weights_support"] == found["weights_reachable"] == 30 and found["weights_iterations"] == 0
    objective = penalty / 2 * (expected**2).sum() - p @ expected[usable]
    assert np.isclose(found["weights_objective"], objective)


def test_columns_tell_label_tokens_and_norms(inputs, results):
    targets = [s for own in inputs.targets.values() for s in own if truth.is_usable(s)]
    norms = np.linalg.norm(truth.gradients(load_model(inputs.model), targets), axis=1)
    path = results("cosine")
    assert list(selected(path, "column/label_tokens")) == [s.mask[1:].sum() for s in targets]
    assert np.allclose(selected(path, "column/gradient_norm"), norms, rtol=1e-4)


def test_columns_of_tasks_tell_sums_and_means(inputs, results, tmp_path):
    run(2, *inputs.arguments(tmp_path / "tasks.h5", *EXACT[:2], "--columns", "tasks"))
    task = selected(results("cosine"), "column/task")
    for name, together in (("column/label_tokens", np.sum), ("column/gradient_norm", np.mean)):
        single = selected(results("cosine"), name)
        assert np.allclose(selected(tmp_path / "tasks.h5", name), [together(single[task == t]) for t in (0, 1)], rtol=1e-5)


@pytest.mark.parametrize("normalize", ["cosine", "none"])
@pytest.mark.parametrize("budget", [["--lambda", 0.002], ["--select", 25]])
def test_second_order_against_scipy(inputs, results, tmp_path, normalize, budget):
    """The curvature is that of the mean target loss: with cosine the mean of l_t / |g_t|, whose Fisher is
    (1/M) sum T_t g_t g_t' / |g_t|, in terms of g_t / |g_t|."""
    source = results(normalize)
    for ranks in (1, 3):
        run(ranks, "select", "--result", source, "--out", tmp_path / f"{ranks}.h5", *SECOND, *budget)
    assert datasets(tmp_path / "1.h5") == datasets(tmp_path / "3.h5")
    path = tmp_path / "1.h5"

    influence, usable = usable_influence(source)
    tokens, norm = selected(source, "column/label_tokens"), selected(source, "column/gradient_norm").astype(float)
    scale = tokens * (norm if normalize == "cosine" else 1) / len(tokens)
    count = len(inputs.pool)
    curvature = RATE / count * (influence * scale) @ influence.T
    found = attributes(path)
    weight = selected(path, "weight")[usable].astype(float)
    kept = np.ones(len(usable), bool)
    if "--select" in budget:
        assert found["weights_support"] == 25 <= found["weights_reachable"]
        if found["weights_reachable"] > 25:  # a cut: optimal on what was kept
            kept = weight > 0
    p = influence.mean(1)
    matrix = curvature[np.ix_(kept, kept)] + found["weights_lambda"] * np.eye(kept.sum())
    expected = by_scipy(p[kept], matrix, found["weights_threshold"])
    assert abs(expected.sum() / count - 1) < 1e-5
    assert np.abs(weight[kept] - expected).max() < 1e-5 * expected.max()
    assert np.isclose(found["weights_objective"], expected @ matrix @ expected / 2 - p[kept] @ expected, rtol=1e-6)
    assert found["weights_support"] == (weight > 0).sum() == len(selected(path, "selected/index"))
    assert abs(weight.sum() / count - 1) < 1e-6
    first = selected(source, "weight")[usable]
    assert np.abs(first - weight).max() > 0.01 * weight.max()  # the curvature does something


def test_a_run_selects_as_select_does(inputs, results, tmp_path):
    for ranks in (1, 3):
        run(ranks, *inputs.arguments(tmp_path / f"{ranks}.h5", *EXACT, *inputs.unit, *SECOND, "--select", 25))
    run(2, "select", "--result", results("cosine"), "--out", tmp_path / "again.h5", *SECOND, "--select", 25)
    expected = datasets(tmp_path / "again.h5")
    assert datasets(tmp_path / "1.h5") == expected and datasets(tmp_path / "3.h5") == expected


@pytest.mark.parametrize("order", [WEIGHTED, SECOND])
@pytest.mark.parametrize("budget", [["--select", 40, "--max-weight", "3x"], ["--lambda", 0.002, "--max-weight", 15]])
def test_weights_keep_their_limits(inputs, results, tmp_path, order, budget):
    source = results("cosine")
    limits = [*budget, "--source-share", "math=0.2", "code=0.1", "web=0.9"]
    for ranks in (1, 3):
        said = run(ranks, "select", "--result", source, "--out", tmp_path / f"{ranks}.h5", *order, *limits)
    assert datasets(tmp_path / "1.h5") == datasets(tmp_path / "3.h5")
    path = tmp_path / "1.h5"
    weight, found = selected(path, "weight").astype(float), attributes(path)
    count = len(weight)
    most = 3 * count / 40 if "3x" in budget else 15
    assert abs(weight.sum() / count - 1) < 1e-6 and weight.max() <= most * (1 + 1e-6)
    assert found["weights_at_largest"] == (np.abs(weight / most - 1) < 1e-6).sum()
    of_source, names = selected(path, "source/index"), text(selected(path, "source/name"))
    share = {"math": 0.2, "code": 0.1, "web": 0.9}
    full = [name for i, name in enumerate(names) if weight[of_source == i].sum() / count >= share[name] * (1 - 1e-6)]
    assert all(weight[of_source == i].sum() / count <= share[name] * (1 + 1e-6) for i, name in enumerate(names))
    assert found["weights_full_sources"] == len(full) > 0
    assert f"at their share: {', '.join(full)}" in said

    # Rows of one source, or of the sources below their share, have one marginal gain where they are between the limits.
    influence, usable = usable_influence(source)
    marginal = influence.mean(1) - found["weights_lambda"] * weight[usable]
    if order is SECOND:
        tokens, norm = selected(source, "column/label_tokens"), selected(source, "column/gradient_norm").astype(float)
        marginal -= RATE / count * influence @ (tokens * norm / len(tokens) * (influence.T @ weight[usable]))
    kept = weight[usable] > 0 if found["weights_reachable"] > found["weights_support"] else np.ones(len(usable), bool)
    pools = [np.isin(of_source[usable], [i for i, name in enumerate(names) if name not in full])]
    pools += [of_source[usable] == names.index(name) for name in full]
    for pool in pools:
        can_grow = marginal[pool & kept & (weight[usable] < most * (1 - 1e-6))]
        can_shrink = marginal[pool & (weight[usable] > 0)]
        if len(can_grow) and len(can_shrink):
            assert can_grow.max() < can_shrink.min() + 1e-5 * np.abs(influence).max()


def test_lambda_zero_is_equal_weights(inputs, results, tmp_path):
    said = run(1, "select", "--result", results("cosine"), "--out", tmp_path / "out.h5", *WEIGHTED, "--lambda", 0, "--select", 9)
    assert "weights: 9 samples" in said
    weight = selected(tmp_path / "out.h5", "weight")
    assert sorted(weight)[-10:] == [0, *[np.float32(len(weight) / 9)] * 9]
    influence, usable = usable_influence(results("cosine"))
    assert list(selected(tmp_path / "out.h5", "selected/index")) == sorted(usable[np.argsort(-influence.mean(1), kind="stable")[:9]])


def test_second_order_refuses_results_by_task(inputs, tmp_path):
    run(1, *inputs.arguments(tmp_path / "tasks.h5", *EXACT[:2], "--columns", "tasks"))
    said = run(1, "select", "--result", tmp_path / "tasks.h5", "--out", tmp_path / "out.h5", *SECOND, exit_code=3)
    assert "columns = samples, for --influence second-order" in said and "columns = tasks" in said
    assert text(selected(tmp_path / "tasks.h5", "column/name")) == ["math", "code"]
    said = run(1, "select", "--result", tmp_path / "tasks.h5", "--out", tmp_path / "out.h5", *SECOND[:4], exit_code=2)
    assert "--learning-rate" in said
