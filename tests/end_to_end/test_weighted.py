"""Optimal weights through the program, against scipy and the closed form in numpy."""

import re

import numpy as np
import pytest
import scipy.optimize
import truth
from idistill.result import Result
from program import attributes, datasets, run, run_alone, text
from tiny import load_model, write_tokens

RATE = 0.05
EXACT = ["--propagation", "none", "--sketch", "none"]
WEIGHTED = ["--selection", "weighted", "--order", "first-order"]
SECOND = ["--selection", "weighted", "--order", "second-order", "--learning-rate", RATE]


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


@pytest.fixture(scope="module")
def by_tasks(inputs, tmp_path_factory):
    """A result with a column for every task."""
    path = tmp_path_factory.mktemp("tasks") / "tasks.h5"
    run(2, *inputs.arguments(path, *EXACT[:2], "--columns", "tasks"))
    return path


def selected(path, name):
    with Result(path) as result:
        return result[name]


def usable_influence(path):
    """(n x M), and the rows of the pool."""
    influence = selected(path, "influence").astype(float)
    usable = np.flatnonzero(np.isfinite(influence).all(1))
    return influence[usable], usable


def optimum(p, matrix, total, largest=np.inf, groups=()):
    """Minimum of -p.w + w' matrix w / 2 over 0 <= w <= largest, sum w = total, and sum of w[members] <= most for every (members,
    most) of the groups: bounded least squares on dense matrices, a slack for each group, equations as rows of great weight."""
    n, heavy = len(p), 1e4
    factor = np.linalg.cholesky(matrix)
    rows = np.zeros((n + 1 + len(groups), n + len(groups)))
    rows[:n, :n], rows[n, :n] = factor.T, heavy
    right = [*np.linalg.solve(factor, p), heavy * total]
    for j, (members, most) in enumerate(groups):
        rows[n + 1 + j, :n], rows[n + 1 + j, n + j] = heavy * members, heavy
        right.append(heavy * most)
    bounds = (0, np.r_[np.full(n, largest), np.full(len(groups), np.inf)])
    return scipy.optimize.lsq_linear(rows, np.array(right), bounds, method="bvls", tol=1e-14, max_iter=100 * n).x[:n]


def quadratic(source, normalize="cosine"):
    """eta Q of usable rows, from the influences in the file. The curvature is that of the mean target loss: with cosine the mean
    of l_t / |g_t|, whose Fisher is (1/M) sum T_t g_t g_t' / |g_t|, in terms of g_t / |g_t|."""
    influence, _ = usable_influence(source)
    tokens, norm = selected(source, "column/label_tokens"), selected(source, "column/gradient_norm").astype(float)
    scale = tokens * (norm if normalize == "cosine" else 1) / len(tokens)
    return RATE / len(selected(source, "weight")) * (influence * scale) @ influence.T


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
    assert found["weights_learning_rate"] == 0
    objective = penalty / 2 * (expected**2).sum() - p @ expected[usable]
    assert np.isclose(found["weights_objective"], objective)


def test_columns_tell_label_tokens_and_norms(inputs, results):
    targets = [s for own in inputs.targets.values() for s in own if truth.is_usable(s)]
    norms = np.linalg.norm(truth.gradients(load_model(inputs.model), targets), axis=1)
    path = results("cosine")
    assert list(selected(path, "column/label_tokens")) == [s.mask[1:].sum() for s in targets]
    assert np.allclose(selected(path, "column/gradient_norm"), norms, rtol=1e-4)


def test_columns_of_tasks_tell_sums_and_means(results, by_tasks):
    task = selected(results("cosine"), "column/task")
    for name, together in (("column/label_tokens", np.sum), ("column/gradient_norm", np.mean)):
        single = selected(results("cosine"), name)
        assert np.allclose(selected(by_tasks, name), [together(single[task == t]) for t in (0, 1)], rtol=1e-5)


@pytest.mark.parametrize("normalize", ["cosine", "none"])
@pytest.mark.parametrize("budget", [["--lambda", 0.002], ["--select", 25]])
def test_second_order_against_scipy(inputs, results, tmp_path, normalize, budget):
    source = results(normalize)
    for ranks in (1, 3):
        run(ranks, "select", "--result", source, "--out", tmp_path / f"{ranks}.h5", *SECOND, *budget)
    assert datasets(tmp_path / "1.h5") == datasets(tmp_path / "3.h5")
    path = tmp_path / "1.h5"

    influence, usable = usable_influence(source)
    found = attributes(path)
    weight = selected(path, "weight")[usable].astype(float)
    kept = np.ones(len(usable), bool)
    if "--select" in budget:
        assert found["weights_support"] == 25 <= found["weights_reachable"]
        if found["weights_reachable"] > 25:  # a cut: optimal on what was kept
            kept = weight > 0
    p = influence.mean(1)[kept]
    matrix = quadratic(source, normalize)[np.ix_(kept, kept)] + found["weights_lambda"] * np.eye(kept.sum())
    expected = optimum(p, matrix, len(inputs.pool))
    assert np.abs(weight[kept] - expected).max() < 1e-5 * expected.max()
    assert np.isclose(found["weights_objective"], expected @ matrix @ expected / 2 - p @ expected, rtol=1e-6)
    assert np.allclose((p - matrix @ expected)[expected > 0], found["weights_threshold"], rtol=0, atol=1e-5 * np.abs(p).max())
    assert found["weights_support"] == (weight > 0).sum() == len(selected(path, "selected/index"))
    assert abs(weight.sum() / len(inputs.pool) - 1) < 1e-6
    assert found["weights_learning_rate"] == RATE
    first = selected(source, "weight")[usable]
    assert np.abs(first - weight).max() > 0.01 * weight.max()  # the curvature does something


def test_a_run_selects_as_select_does(inputs, results, tmp_path):
    for ranks in (1, 3):
        run(ranks, *inputs.arguments(tmp_path / f"{ranks}.h5", *EXACT, *inputs.unit, *SECOND, "--select", 25))
    run(2, "select", "--result", results("cosine"), "--out", tmp_path / "again.h5", *SECOND, "--select", 25)
    expected = datasets(tmp_path / "again.h5")
    assert datasets(tmp_path / "1.h5") == expected and datasets(tmp_path / "3.h5") == expected


SHARES = {"math": 0.2, "code": 0.1, "web": 0.9}
BY_SHARES = ["--source-share", *(f"{name}={share}" for name, share in SHARES.items())]


@pytest.mark.parametrize("order", [WEIGHTED, SECOND])
@pytest.mark.parametrize("budget", [["--select", 40, "--max-weight", "1.5x"], ["--lambda", 0.002, "--max-weight", 4]])
def test_limits_against_scipy(inputs, results, tmp_path, order, budget):
    source = results("cosine")
    for ranks in (1, 3):
        said = run(ranks, "select", "--result", source, "--out", tmp_path / f"{ranks}.h5", *order, *budget, *BY_SHARES)
    assert datasets(tmp_path / "1.h5") == datasets(tmp_path / "3.h5")
    path = tmp_path / "1.h5"
    influence, usable = usable_influence(source)
    weight, found, count = selected(path, "weight")[usable].astype(float), attributes(path), len(inputs.pool)
    largest = 1.5 * count / 40 if "1.5x" in budget else 4
    names, of_row = text(selected(path, "source/name")), selected(path, "source/index")[usable]
    kept = weight > 0 if found["weights_reachable"] > found["weights_support"] else np.ones(len(usable), bool)

    p = influence.mean(1)[kept]
    matrix = found["weights_lambda"] * np.eye(kept.sum())
    if order is SECOND:
        matrix += quadratic(source)[np.ix_(kept, kept)]
    groups = [(of_row[kept] == names.index(name), share * count) for name, share in SHARES.items()]
    expected = optimum(p, matrix, count, largest, groups)
    assert np.abs(weight[kept] - expected).max() < 1e-5 * expected.max()
    assert np.isclose(found["weights_objective"], expected @ matrix @ expected / 2 - p @ expected, rtol=1e-6)

    full = [name for name in names if weight[of_row == names.index(name)].sum() / count > SHARES.get(name, 1) * (1 - 1e-6)]
    assert found["weights_full_sources"] == len(full) > 0
    assert f"at their share: {', '.join(full)}" in said
    assert found["weights_at_largest"] == (weight > largest * (1 - 1e-6)).sum() > 0
    if "--select" in budget:
        assert found["weights_support"] == 40


def test_a_run_keeps_limits_as_select_does(inputs, results, tmp_path):
    limited = [*SECOND, "--select", 40, "--max-weight", "1.5x", *BY_SHARES]
    run(2, *inputs.arguments(tmp_path / "run.h5", *EXACT, *inputs.unit, *limited))
    run(2, "select", "--result", results("cosine"), "--out", tmp_path / "again.h5", *limited)
    assert datasets(tmp_path / "run.h5") == datasets(tmp_path / "again.h5")


def test_a_source_without_share_gets_no_weight(inputs, results, tmp_path):
    run_alone("select", "--result", results("cosine"), "--out", tmp_path / "out.h5", *WEIGHTED, "--source-share", "web=0")
    source = text(selected(tmp_path / "out.h5", "source/name")).index("web")
    weight = selected(tmp_path / "out.h5", "weight")
    assert (weight[selected(tmp_path / "out.h5", "source/index") == source] == 0).all() and weight.any()


@pytest.fixture(scope="module")
def void(inputs, tmp_path_factory):
    """A pool of three sources, 90 samples, and a sample of a fourth that is not eligible; and its influences."""
    directory = tmp_path_factory.mktemp("void")
    bad = next(inputs.pool[row] for row, reason in inputs.reasons.items() if reason == "no label tokens")
    usable = [own for own in inputs.pool if truth.is_usable(own)]
    pool = [write_tokens(directory / "pool.h5", [*usable[:90], bad._replace(source="void")])]
    run(2, *inputs.arguments(directory / "result.h5", *EXACT, pool=pool))
    return pool, directory / "result.h5"


@pytest.mark.parametrize("limits, words", [
    (["--select", 40, "--max-weight", 2], ["--select", "at least 46 samples", "--max-weight 2", "found 40", "to 2.275 or more"]),
    (["--lambda", 0.1, "--max-weight", 0.9], ["--max-weight", "at least 1.01112", "add up to 91", "found 0.9"]),
    (["--source-share", "math=0.2", "code=0.1", "web=0.3"],
     ["--source-share", "room for 0.6 of it", "Raise the shares by at least 0.4"]),
    (["--source-share", "maths=0.2"], ["--source-share", "a source of the pool", "'maths'", "Did you mean math?"]),
    (["--source-share", "poetry=0.2"], ["'poetry'", "The pool has ", "math"]),
    (["--source-share", "void=0.2"], ["--source-share", "a source with eligible samples", "none in 'void'", "Leave its share out"]),
])
def test_limits_without_room_are_refused_before_the_run(inputs, void, tmp_path, limits, words):
    pool, result = void
    whole = inputs.arguments(tmp_path / "out.h5", *EXACT, pool=pool)
    for command in (["select", "--result", result, "--out", tmp_path / "out.h5"], whole, ["plan", *whole]):
        said = run_alone(*command, *WEIGHTED, *limits, exit_code=2)
        assert all(word in said for word in words), said
        assert not list(tmp_path.glob("out.h5*[!k]"))  # a lock may stay


def test_shares_are_no_quotas(inputs, void, tmp_path):
    """More than 1 together leaves room; only less, of all sources, does not."""
    run_alone("select", "--result", void[1], "--out", tmp_path / "out.h5", *WEIGHTED,
              "--source-share", "math=0.6", "code=0.6", "web=0.6")
    assert abs(selected(tmp_path / "out.h5", "weight").sum() / 91 - 1) < 1e-6


@pytest.mark.parametrize("limit", [["--max-weight", "3x"], ["--source-share", "math=0.2"]])
def test_limits_are_of_weighted_alone(inputs, tmp_path, limit):
    out = tmp_path / "out.h5"
    for command in (["select", "--result", tmp_path / "in.h5", "--out", out], inputs.arguments(out)):
        said = run_alone(*command, "--selection", "top-k", *limit, exit_code=2)
        assert limit[0] in said and "top-k" in said


def test_lambda_zero_is_equal_weights(inputs, results, tmp_path):
    said = run_alone("select", "--result", results("cosine"), "--out", tmp_path / "out.h5", *WEIGHTED, "--lambda", 0, "--select", 9)
    assert "weights: 9 samples" in said
    weight = selected(tmp_path / "out.h5", "weight")
    assert sorted(weight)[-10:] == [0, *[np.float32(len(weight) / 9)] * 9]
    influence, usable = usable_influence(results("cosine"))
    assert list(selected(tmp_path / "out.h5", "selected/index")) == sorted(usable[np.argsort(-influence.mean(1), kind="stable")[:9]])


def test_second_order_refuses_results_by_task(by_tasks, tmp_path):
    said = run_alone("select", "--result", by_tasks, "--out", tmp_path / "out.h5", *SECOND, exit_code=3)
    assert "columns = samples, for --order second-order" in said and "columns = tasks" in said
    assert "Use --order first-order" in said
    assert text(selected(by_tasks, "column/name")) == ["math", "code"]


def best_step(source, weight):
    """The step along these weights that gains most, and what it gains, by the influences in the file."""
    influence, usable = usable_influence(source)
    product = influence.mean(1) @ weight[usable].astype(float)
    curved = weight[usable] @ (quadratic(source) / RATE) @ weight[usable].astype(float)
    return product / curved, product**2 / (2 * curved)


def test_the_default_is_second_order_at_the_shortest_step_after_which_little_is_gained(inputs, results, tmp_path):
    source, budget = results("cosine"), ["--select", 25]
    out = tmp_path / "default.h5"
    run(3, *inputs.arguments(out, *EXACT, *inputs.unit, *budget))
    with Result(out) as result:
        settings, found = [result.setting(name) for name in ("selection", "order", "learning-rate")], result.attributes
    assert settings == ["weighted", "second-order", "auto"]

    run_alone("select", "--result", source, "--out", tmp_path / "step-0.h5", *WEIGHTED, *budget)
    rate, gain = best_step(source, selected(tmp_path / "step-0.h5", "weight"))
    steps, gained = 0, 0.0
    while gain > 1.1 * gained:
        steps, gained, used = steps + 1, gain, rate
        path = tmp_path / f"step-{steps}.h5"
        run_alone("select", "--result", source, "--out", path, *SECOND[:-1], rate, *budget)
        rate, gain = best_step(source, selected(path, "weight"))
    assert steps > 1 and np.isclose(found["weights_learning_rate"], used, rtol=1e-5)
    assert np.allclose(selected(out, "weight"), selected(path, "weight"), rtol=1e-3, atol=1e-4 * selected(path, "weight").max())
    assert list(selected(out, "selected/index")) == list(selected(path, "selected/index"))

    for ranks in (1, 2):
        said = run(ranks, "select", "--result", source, "--out", tmp_path / f"again-{ranks}.h5", *budget)
        assert f"learning rate {used:.3g}" in said
        assert "--selection auto: weighted" in said and "--order auto: second-order" in said
        assert datasets(tmp_path / f"again-{ranks}.h5") == datasets(out)


def test_a_step_that_is_longer_than_gains_is_warned_of(results, tmp_path):
    """By the influences in the file, along the weights that it leads to."""
    warned = []
    for rate in (0.01, RATE, 1, 100, 1e4):
        out = tmp_path / f"{rate}.h5"
        said = run_alone("select", "--result", results("cosine"), "--out", out, *SECOND[:-1], rate, "--select", 25)
        length, _ = best_step(results("cosine"), selected(out, "weight"))
        warned += re.findall(r"warning: a step of --learning-rate \S+ is longer than gains most along these weights, (\S+):", said)
        assert (f"warning: a step of --learning-rate {rate:.3g} " in said) == (length < rate)
        assert length >= rate or np.isclose(float(warned[-1]), max(0, length), rtol=1e-2)
    assert 0 < len(warned) < 4


def test_the_default_of_columns_by_task_is_round_robin(by_tasks, tmp_path):
    said = run(2, "select", "--result", by_tasks, "--out", tmp_path / "again.h5")
    assert "--selection auto: round-robin" in said
    for path in (by_tasks, tmp_path / "again.h5"):
        assert set(selected(path, "selected/column")) == {0, 1} and set(selected(path, "selected/weight")) == {1}
    assert datasets(by_tasks) == datasets(tmp_path / "again.h5")
