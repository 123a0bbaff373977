"""What the numbers of a result mean, against transformers, autograd and numpy."""

import json

import numpy as np
import pandas
import pytest
import truth
from idistill.result import Result
from program import run, text
from tiny import load_model, poisoned, write_tokens

SOME, ALL = ["--contrast", 100], ["--contrast", 1000]  # of the pool's samples; more than there are
RIDGE = ["--landmarks", 80, "--embedding", "hidden", "--jvp-blocks", 2]
RUNS = {
    "exact": ["--propagation", "none", "--sketch", "none", "--select", 40, "--source-cap", "math=9"],
    "published": ["--propagation", "none", "--sketch", "none", "--contrast", 0],
    "exact-raw": ["--propagation", "none", "--sketch", "none", "--normalize", "none", "--selection", "top-k", "--top-k-by",
                  "max", "--select", "7.4%"],
    "exact-tasks": ["--propagation", "none", "--columns", "tasks", "--select-tokens", 700, "--source-cap", "web=3"],
    "exact-raw-tasks": ["--propagation", "none", "--columns", "tasks", "--normalize", "none"],
    "exact-sketched": ["--propagation", "none", "--selection", "random", "--select", 11],
    "ridge": [*RIDGE, "--sketch", "none", "--selection", "top-k", "--select", 30],
    "ridge-sketched": [*RIDGE, "--selection", "round-robin", "--select", 200],
    "ridge-raw": [*RIDGE, "--sketch", "none", "--normalize", "none", "--selection", "round-robin"],
}
TOLERANCE = 1e-4
POISONED = [reason for reason, _ in poisoned(np.random.default_rng(0))]


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory):
    """Results by name, each computed when it is first asked for."""
    directory = tmp_path_factory.mktemp("results")
    done = {}

    def get(name, seed=43) -> Result:
        if (name, seed) not in done:
            contrast = [] if "--contrast" in RUNS[name] else ALL if name == "ridge" else SOME
            out = directory / f"{name}-{seed}.h5"
            run(2, *inputs.arguments(out, *RUNS[name], *contrast, *inputs.unit, "--seed", seed))
            done[name, seed] = Result(out)
        return done[name, seed]

    return get


@pytest.fixture(scope="module")
def model(inputs):
    return load_model(inputs.model)


@pytest.fixture(scope="module")
def pool_gradients(inputs, model):
    return truth.gradients(model, inputs.pool)


@pytest.fixture(scope="module")
def target_gradients(inputs, model):
    """Of the usable targets, and their tasks."""
    usable = [(task, s) for task, own in enumerate(inputs.targets.values()) for s in own if truth.is_usable(s)]
    return truth.gradients(model, [s for _, s in usable]), np.array([task for task, _ in usable])


@pytest.fixture(scope="module")
def contrasted(results, pool_gradients, target_gradients):
    """Unit gradients of the targets, or with raw=True their gradients, without the mean direction that the run took out."""

    def get(name, raw=False):
        drawn = pool_gradients[results(name)["contrast/index"]]
        targets = target_gradients[0] if raw else truth.unit_rows(target_gradients[0])
        return truth.without(targets, truth.unit_rows(drawn).mean(0))

    return get


def assert_close(found, expected, tolerance=TOLERANCE):
    """NaN in the same places; otherwise within the tolerance of the largest value."""
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)) < tolerance * np.nanmax(np.abs(expected))


def test_influence_is_the_cosine_of_gradients(results, pool_gradients, target_gradients):
    targets, task = target_gradients
    expected = truth.unit_rows(pool_gradients) @ truth.unit_rows(targets).T
    assert_close(results("published")["influence"], expected)
    assert np.array_equal(results("published")["column/task"], task)


def test_contrast_takes_the_mean_of_the_pool_out_of_the_targets(results, pool_gradients, contrasted):
    found = results("exact")["influence"]
    assert_close(found, truth.unit_rows(pool_gradients) @ contrasted("exact").T)
    assert not np.allclose(found, results("published")["influence"], atol=0.05, equal_nan=True)


def test_samples_of_the_contrast_are_usable_and_drawn_by_the_seed(results, inputs):
    drawn = results("exact")["contrast/index"]
    usable = {i for i, s in enumerate(inputs.pool) if truth.is_usable(s)}
    assert 90 < len(drawn) == len(set(drawn)) <= 100 and set(drawn) <= usable
    assert set(results("ridge")["contrast/index"]) == usable
    assert np.array_equal(drawn, results("exact-tasks")["contrast/index"])
    assert len(results("published")["contrast/index"]) == 0


def test_a_target_that_is_nothing_but_the_contrast(inputs, tmp_path):
    sample = next(s for s in inputs.pool if truth.is_usable(s))
    one = write_tokens(tmp_path / "one.h5", [sample])
    for extra in ([], ["--columns", "tasks"]):
        out = tmp_path / f"out{len(extra)}.h5"
        said = run(2, "--model", inputs.model, "--pool", one, "--target", f"same={one}", "--out", out, "--propagation", "none", *extra)
        assert "warning: nothing is left of 1 targets without the pool's mean gradient" in said
        assert (Result(out)["influence"] == 0).all()


def test_raw_influence_is_the_product_of_gradients(results, pool_gradients, contrasted):
    targets = contrasted("exact-raw", raw=True)
    expected = pool_gradients @ targets.T
    found = results("exact-raw")["influence"]
    assert_close(found, expected)
    usable = np.isfinite(expected).all(1)
    scale = np.outer(np.linalg.norm(pool_gradients[usable], axis=1), np.linalg.norm(targets, axis=1))
    assert (np.abs(found[usable] - expected[usable]) / scale).max() < TOLERANCE  # small gradients count as well


def test_raw_columns_of_tasks_are_the_means_over_their_targets(results):
    assert_close(results("exact-raw-tasks")["influence"], results("exact-raw")["score"], 1e-5)


def test_one_column_per_task_is_the_mean_over_its_targets(results, pool_gradients, target_gradients, contrasted):
    """Contraction with the mean directions, and the mean of the columns of single targets, are the same numbers."""
    means = np.stack([contrasted("exact-tasks")[target_gradients[1] == t].mean(0) for t in (0, 1)])
    found = results("exact-tasks")["influence"]
    assert_close(found, truth.unit_rows(pool_gradients) @ means.T)
    assert_close(found, results("exact")["score"], 1e-5)


@pytest.mark.parametrize("name", ["exact", "exact-raw", "exact-tasks", "exact-sketched"])
def test_gradient_norms(results, pool_gradients, name):
    found = results(name)["gradient_norm"]
    usable = np.isfinite(pool_gradients).all(1)
    expected = np.linalg.norm(pool_gradients[usable], axis=1)
    assert np.abs(found[usable] / expected - 1).max() < TOLERANCE
    assert not np.isfinite(found[~usable]).any()


def test_landmarks_keep_their_exact_influence(results):
    sketched, exact = results("ridge-sketched"), results("exact-sketched")
    landmarks = sketched["landmark/index"]
    assert len(set(landmarks)) == 80
    assert_close(sketched["influence"][landmarks], exact["influence"][landmarks], 1e-5)
    assert np.array_equal(sketched["landmark/influence"], sketched["influence"][landmarks], equal_nan=True)
    assert_close(sketched["gradient_norm"][landmarks], exact["gradient_norm"][landmarks], 1e-5)


def test_a_sketch_keeps_influence_roughly(results):
    usable = np.isfinite(results("exact")["influence"]).all(1)
    error = results("exact-sketched")["influence"][usable] - results("exact")["influence"][usable]
    assert 0 < np.abs(error).max() < 0.25  # 5 x 32 x 32 numbers: a standard deviation of at most about 0.04


@pytest.mark.parametrize("name", ["ridge", "ridge-raw"])
def test_kernel_ridge_done_again(results, inputs, model, pool_gradients, contrasted, name):
    """The whole propagation from transformers' hidden states and autograd's gradients, with the damping that was chosen."""
    result = results(name)
    usable = np.array([truth.is_usable(s) for s in inputs.pool])
    samples = [s for s in inputs.pool if truth.is_usable(s)]
    place = np.cumsum(usable) - 1
    landmarks = place[[i for i in result["landmark/index"] if usable[i]]]
    assert len(landmarks) < len(result["landmark/index"])  # one that is not finite is among them
    kernel, width = truth.ridge_kernel(truth.hidden_embeddings(model, samples, 2), samples, landmarks)
    assert abs(result.attributes["bandwidth"] / width - 1) < TOLERANCE

    gradients = pool_gradients[usable]
    norms = np.linalg.norm(gradients, axis=1)
    raw = name == "ridge-raw"
    labels = (truth.unit_rows(gradients) @ contrasted(name, raw).T)[landmarks]
    damping, intercept = result.attributes["damping"], bool(result.attributes["intercept"])
    coefficients, offset = truth.ridge(kernel[landmarks], labels, damping, intercept)
    norm_coefficients, norm_offset = truth.ridge(kernel[landmarks], np.log(norms[landmarks])[:, None], damping, True)
    predicted_norms = np.exp(kernel @ norm_coefficients + norm_offset)[:, 0]
    predicted = (kernel @ coefficients + offset) * (predicted_norms[:, None] if raw else 1)

    others = np.setdiff1d(np.arange(len(samples)), landmarks)
    assert len(others) > 50
    assert_close(result["influence"][usable][others], predicted[others], 1e-3)
    assert np.abs(result["gradient_norm"][usable][others] / predicted_norms[others] - 1).max() < 1e-3

    for left_out in (0, len(landmarks) // 2):
        rest = np.delete(np.arange(len(landmarks)), left_out)
        own = kernel[landmarks[left_out]]
        fit = [truth.ridge(kernel[landmarks][np.ix_(rest, rest)], y[rest], damping, with_intercept)
               for y, with_intercept in ((labels, intercept), (np.log(norms[landmarks])[:, None], True))]
        expected, norm = (own[rest] @ coefficients + offset for coefficients, offset in fit)
        at = np.flatnonzero(usable[result["landmark/index"]])[left_out]
        assert_close(result["landmark/loo"][at], expected * (np.exp(norm) if raw else 1), 2e-3)

    own, source = truth.task_means(labels, result["column/task"]), np.array([samples[i].source for i in landmarks])
    within = truth.left_out_pairs(kernel[landmarks], own, source, damping, intercept)
    assert np.allclose(result["task/loo_r2_within_source"], within, atol=1e-3)


@pytest.mark.parametrize("name", ["ridge", "ridge-sketched"])
def test_trust_from_the_leave_one_out_predictions(results, name):
    result = results(name)
    usable = np.isfinite(result["landmark/influence"]).all(1)
    assert np.array_equal(usable, np.isfinite(result["landmark/loo"]).all(1))
    labels, loo = (result[f"landmark/{what}"][usable].astype(float) for what in ("influence", "loo"))
    expected = [truth.r_squared(labels[:, c], loo[:, c]) for c in range(labels.shape[1])]
    assert np.allclose(result["column/loo_r2"], expected, atol=TOLERANCE)
    for task in range(2):
        own, predicted = (truth.task_means(v, result["column/task"])[:, task] for v in (labels, loo))
        assert abs(result["task/loo_r2"][task] - truth.r_squared(own, predicted)) < TOLERANCE
        rank = pandas.Series(own).corr(pandas.Series(predicted), method="spearman")
        assert abs(result["task/loo_spearman"][task] - rank) < 1e-3


def test_label_noise_is_what_the_sketch_adds(results):
    """Known beforehand from norms and lengths; here against the differences that it makes. One draw of hashes: within a factor of 2."""
    sketched, whole = results("exact-sketched"), results("exact")
    usable = np.isfinite(whole["influence"]).all(1)
    task = whole["column/task"]
    exact, noisy = (truth.task_means(r["influence"][usable].astype(float), task) for r in (whole, sketched))
    labels = results("ridge-sketched")["landmark/influence"].astype(float)
    labels = truth.task_means(labels[np.isfinite(labels).all(1)], task)
    found = results("ridge-sketched")["task/label_noise"] * labels.var(0)
    measured = np.square(noisy - exact).mean(0)
    assert (found > 0.25 * measured).all() and (found < 4 * measured).all(), (found, measured)
    assert (results("ridge")["task/label_noise"] == 0).all()
    for result in (sketched, results("ridge-sketched")):
        np.testing.assert_allclose(np.square(result["task/influence_error"]), found)
    assert (whole["task/influence_error"] == 0).all()


def test_trust_is_what_held_out_samples_show(results):
    """Samples that were no landmarks, against their exact influence; means over draws of 80 landmarks, one of which says little."""
    said, shown = [], []
    for seed in (43, 44, 45, 46):
        predicted, exact = results("ridge-sketched", seed), results("exact-sketched", seed)
        held_out = np.isfinite(exact["score"]).all(1) & (predicted["exact"] == 0)
        assert held_out.sum() > 100
        for task in range(2):
            own, found = exact["score"][held_out, task].astype(float), predicted["score"][held_out, task].astype(float)
            shown.append((truth.r_squared(own, found), pandas.Series(own).corr(pandas.Series(found), method="spearman")))
        said.append([predicted[name].mean() for name in ("task/loo_r2", "task/loo_spearman")])
    assert np.allclose(np.mean(said, 0), np.mean(shown, 0), atol=0.1), (said, shown)


def lists_of(name, result):
    influence = result["influence"]
    if name == "exact-raw":
        return [(-1, truth.task_means(influence, result["column/task"]).max(1))]
    if name == "ridge":
        return [(-1, truth.task_means(influence, result["column/task"]).mean(1))]
    return [(column, influence[:, column]) for column in truth.interleaved(result["column/task"])]


@pytest.mark.parametrize("name,budget", [
    ("exact", dict(count=40, caps={"math": 9})),
    ("exact-raw", dict(count=18)),  # 7.4 % of 240
    ("exact-tasks", dict(tokens=700, caps={"web": 3})),
    ("ridge", dict(count=30)),
    ("ridge-sketched", dict(count=200)),
    ("ridge-raw", dict(count=12)),  # 5 % by default
])
def test_selection_done_again(results, inputs, name, budget):
    result = results(name)
    expected = truth.choose(lists_of(name, result), inputs.pool, **budget)
    assert list(zip(result["selected/index"], result["selected/column"])) == expected


def test_random_takes_usable_samples(results, inputs):
    index = results("exact-sketched")["selected/index"]
    assert len(set(index)) == 11 and not set(index) & set(inputs.reasons)
    assert (results("exact-sketched")["selected/column"] == -1).all()


@pytest.mark.parametrize("name", RUNS)
def test_datasets_fit_together(results, inputs, name):
    result = results(name)
    count, columns = result["influence"].shape
    assert count == len(inputs.pool)
    assert text(result["id"]) == [s.id for s in inputs.pool]
    assert list(result["tokens"]) == [len(s.tokens) for s in inputs.pool]
    names = text(result["source/name"])
    assert [names[i] for i in result["source/index"]] == [s.source for s in inputs.pool]
    finite = np.isfinite(result["influence"]).all(1)
    assert dict(zip(map(int, result["quarantine/index"]), text(result["quarantine/reason"]))) == inputs.reasons
    assert list(np.flatnonzero(~finite)) == sorted(inputs.reasons)
    assert np.isnan(result["influence"][~finite]).all() and np.isnan(result["score"][~finite]).all()
    assert_close(result["score"], truth.task_means(result["influence"], result["column/task"]), 1e-6)

    exact = np.zeros(count, np.uint8)
    exact[result["landmark/index"] if "landmark/index" in result else slice(None)] = 1
    assert np.array_equal(result["exact"], exact * finite)

    index, weight = result["selected/index"], result["weight"]
    assert text(result["selected/id"]) == [inputs.pool[i].id for i in index]
    assert sorted(np.flatnonzero(weight)) == sorted(index)
    assert np.allclose(result["selected/weight"], weight[index] * len(index) / count, rtol=1e-6)
    weighted = name == "published"  # by default
    assert (len(set(weight[index])) > 1) == weighted and (weighted or (result["selected/weight"] == 1).all())
    assert abs(weight.astype(float).sum() / count - 1) < 1e-6
    assert result.attributes["selected_tokens"] == sum(len(inputs.pool[i].tokens) for i in index)

    assert text(result["task/name"]) == ["math", "code"]
    usable = [(task, s.id) for task, own in enumerate(inputs.targets.values()) for s in own if truth.is_usable(s)]
    of_tasks = name.endswith("-tasks")
    assert text(result["column/name"]) == (["math", "code"] if of_tasks else [own for _, own in usable])
    assert list(result["column/task"]) == ([0, 1] if of_tasks else [task for task, _ in usable])
    assert columns == len(result["column/task"])
    bad_targets = [i for i, s in enumerate(s for own in inputs.targets.values() for s in own) if not truth.is_usable(s)]
    assert list(result["target_quarantine/index"]) == bad_targets
    assert text(result["target_quarantine/reason"]) == POISONED  # in this order behind the usable targets of `math`


def test_attributes_say_where_a_result_comes_from(results):
    attributes = results("exact").attributes
    assert attributes["format"] == "idistill-weights" and attributes["version"] == 1
    assert attributes["program"].startswith("idistill_mpi ") and attributes["ranks"] == 2
    assert attributes["units_recovered"] == 0
    settings = json.loads(attributes["settings"])
    assert (settings["seed"], settings["normalize"], settings["sketch"]) == (43, "cosine", "none")
    assert settings["unit-flops"] == 2e7
    assert all(len(attributes[name]) == 64 for name in ("model_sha256", "pool_sha256", "targets_sha256"))
    assert results("exact-tasks").attributes["pool_sha256"] == attributes["pool_sha256"]
    assert all(attributes[f"seconds_{stage}"] >= 0 for stage in ("plan", "load", "targets", "exact", "select"))
