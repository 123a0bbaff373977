"""--influence less: cosine of the step of Adam that a sample is a part of and the target's gradient, summed over checkpoints, against
autograd in double precision."""

import less_truth
import numpy as np
import pytest
import truth
from idistill.result import Result
from program import assert_same, attributes, run
from tiny import Inputs, load_model, write_tokens

TOLERANCE = 1e-4
RATES = (2e-5, 5e-6)
UNKNOWN = 1  # of the second checkpoint alone: samples that begin with this token cannot be used there
EXACT = ["--influence", "less", "--propagation", "none", "--selection", "top-k"]
RUNS = {
    "samples": [*EXACT, "--sketch", "none"],
    "released": [*EXACT, "--sketch", "none", "--bias-correction", "off"],
    "tasks": [*EXACT, "--columns", "tasks"],
    "sketched": [*EXACT, "--sketch-dim", 4000],
    "landmarks": ["--influence", "less", "--landmarks", 40, "--embedding", "hidden", "--sketch", "none", "--columns", "tasks"],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    """A target and two samples of the pool begin with UNKNOWN."""
    made = Inputs(tmp_path_factory.mktemp("inputs"), 90)
    for samples, file, rows in ((made.pool, made.pool_file, (10, 70)), (made.targets["code"], made.target_files["code"], (4,))):
        for row in rows:
            samples[row] = samples[row]._replace(tokens=np.append(np.int32(UNKNOWN), samples[row].tokens[1:]))
        write_tokens(file, samples)
    return made


@pytest.fixture(scope="module")
def checkpoints(inputs, tmp_path_factory) -> list[less_truth.Checkpoint]:
    directory = tmp_path_factory.mktemp("checkpoints")
    first = less_truth.save_checkpoint(directory / "first", load_model(inputs.model), inputs.pool, 0)
    model = less_truth.moved_on(load_model(inputs.model), 3, UNKNOWN)
    return [first, less_truth.save_checkpoint(directory / "second", model, [s for s in inputs.pool if UNKNOWN not in s.tokens], 2)]


@pytest.fixture(scope="module")
def kept(inputs, checkpoints):
    """[(task, sample)] of the targets that can be used at every checkpoint."""
    return [(task, s) for task, own in enumerate(inputs.targets.values()) for s in own
            if truth.is_usable(s) and UNKNOWN not in s.tokens]


@pytest.fixture(scope="module")
def expected(inputs, checkpoints, kept) -> list[less_truth.Labels]:
    return [less_truth.labels(checkpoint, inputs.pool, [s for _, s in kept]) for checkpoint in checkpoints]


def given(checkpoints, rates=RATES):
    return [word for checkpoint, rate in zip(checkpoints, rates) for word in ("--checkpoint", f"{checkpoint.directory}:{rate}")]


def summed(expected, form="paper", rates=RATES):
    return sum(rate * labels.influence(form) for rate, labels in zip(rates, expected))


def by_task(influence, kept):
    task = np.array([task for task, _ in kept])
    return np.stack([influence[:, task == t].mean(1) for t in range(task.max() + 1)], 1)


@pytest.fixture(scope="module")
def results(inputs, checkpoints, tmp_path_factory):
    """{name: (path, what was said)}, each computed when it is first asked for."""
    directory = tmp_path_factory.mktemp("results")
    said = {}

    def get(name):
        path = directory / f"{name}.h5"
        if name not in said:
            said[name] = run(2, *inputs.arguments(path, *RUNS[name], *given(checkpoints), *inputs.unit))
        return path, said[name]

    return get


def read(path, name="influence"):
    with Result(path) as file:
        return file[name].astype(float)


def assert_close(found, expected, tolerance=TOLERANCE):
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)) < tolerance * np.nanmax(np.abs(expected))


def test_influence_is_the_sum_of_cosines_of_the_papers_step(results, expected):
    found = read(results("samples")[0])
    assert_close(found, summed(expected))
    for other in (summed(expected, "released"), summed(expected, "v held"), summed(expected[:1]), summed(expected, rates=(1e-5, 1e-5))):
        assert np.nanmax(np.abs(found - other)) > 100 * TOLERANCE * np.nanmax(np.abs(found))


def test_without_bias_correction_it_is_that_of_the_released_code(results, expected):
    assert_close(read(results("released")[0]), summed(expected, "released"))


def test_tasks_have_the_mean_over_their_samples(results, expected, kept):
    means = by_task(summed(expected), kept)
    assert_close(read(results("tasks")[0]), means)
    assert_close(read(results("samples")[0], "score"), means)


def test_a_sketch_errs_as_it_says(results):
    error = read(results("sketched")[0], "score") - read(results("samples")[0], "score")
    stated = read(results("sketched")[0], "task/influence_error")
    assert f"standard deviation {stated.min():.2g} to {stated.max():.2g} by task" in results("sketched")[1]
    measured = np.sqrt(np.nanmean(error**2, 0))
    assert (measured < 2 * stated).all() and (measured > stated / 20).all(), (measured, stated)  # steps have much in common


def test_landmarks_have_the_same_influence(results):
    path, _ = results("landmarks")
    assert_close(read(path, "landmark/influence"), read(results("tasks")[0])[read(path, "landmark/index").astype(int)], 1e-4)


def test_a_sample_that_one_checkpoint_cannot_use_counts_nowhere(inputs, results, kept):
    path, said = results("samples")
    assert "warning: 2 target samples left out" in said, said  # and one that no checkpoint can use
    assert read(path, "influence").shape[1] == len(kept)
    bad = [i for i, s in enumerate(inputs.pool) if truth.is_usable(s) and UNKNOWN in s.tokens]
    with Result(path) as result:
        quarantined = dict(zip(result["quarantine/index"], result.texts("quarantine/reason")))
        assert bad == [10, 70] and all(quarantined[row] == "not finite" for row in bad)
        assert not set(bad) & set(result["selected/index"])


@pytest.mark.parametrize("name", ["samples", "landmarks"])
def test_what_cannot_be_used_is_quarantined(inputs, results, name):
    """Also what is so long that no label was left, of landmarks and others alike."""
    expected = {row: reason for row, reason in inputs.reasons.items() if reason != "not finite"}
    assert {"empty", "no label tokens", "no label tokens after truncation"} == set(expected.values())
    with Result(results(name)[0]) as result:
        found = dict(zip(result["quarantine/index"].tolist(), result.texts("quarantine/reason")))
        assert {row: reason for row, reason in found.items() if reason != "not finite"} == expected
        if name == "samples":
            assert {row for row, reason in found.items() if reason == "not finite"} == {
                row for row, s in enumerate(inputs.pool) if row not in expected and (UNKNOWN in s.tokens or not truth.is_usable(s))}
        assert np.isnan(result["influence"][list(found)]).all() and not result["weight"][list(found)].any()


def test_top_k_by_the_maximum_over_tasks_is_the_papers_selection(inputs, results, tmp_path):
    best = np.nan_to_num(read(results("tasks")[0], "score").max(1), nan=-np.inf)
    out = tmp_path / "max.h5"
    run(2, "select", "--result", results("tasks")[0], "--out", out, "--selection", "top-k", "--top-k-by", "max", "--select", 12)
    assert set(read(out, "selected/index")) == set(np.argsort(-best, kind="stable")[:12])


def test_one_checkpoint_of_rate_one_is_the_model_with_its_optimizer(inputs, checkpoints, tmp_path):
    one, plain = tmp_path / "one.h5", tmp_path / "plain.h5"
    directory = checkpoints[0].directory
    run(2, *inputs.arguments(one, *RUNS["tasks"], "--checkpoint", f"{directory}:1", *inputs.unit))
    run(2, *inputs.arguments(plain, *RUNS["tasks"], "--optimizer", directory / "optimizer.safetensors", *inputs.unit))
    assert np.array_equal(read(one), read(plain), equal_nan=True)  # the first checkpoint's weights are the model's


def test_rates_scale_and_the_order_does_not_matter(inputs, checkpoints, results, tmp_path):
    larger, turned = tmp_path / "larger.h5", tmp_path / "turned.h5"
    run(2, *inputs.arguments(larger, *RUNS["tasks"], *given(checkpoints, [1e3 * rate for rate in RATES]), *inputs.unit))
    run(2, *inputs.arguments(turned, *RUNS["tasks"], *given(checkpoints[::-1], RATES[::-1]), *inputs.unit))
    assert_close(read(larger) / 1e3, read(results("tasks")[0]), 1e-6)
    assert_close(read(turned), read(results("tasks")[0]), 1e-6)


@pytest.mark.parametrize("name,ranks", [("tasks", 1), ("tasks", 5), ("sketched", 3), ("landmarks", 3), ("landmarks", 5)])
def test_any_number_of_ranks(inputs, checkpoints, results, tmp_path, name, ranks):
    again = tmp_path / "again.h5"
    run(ranks, *inputs.arguments(again, *RUNS[name], *given(checkpoints), *inputs.unit))
    assert_same(again, results(name)[0])


def test_what_the_result_and_the_plan_say(inputs, checkpoints, results, tmp_path):
    text = attributes(results("tasks")[0])["checkpoints"]
    assert text.count(";") == 1 and text.startswith("2e-05 x weights ") and " optimizer " in text
    said = run(2, "plan", *inputs.arguments(tmp_path / "out.h5", *RUNS["tasks"], *given(checkpoints)))
    for line in ("2 checkpoints", "label targets, checkpoint 2", "task gradients, checkpoint 1", "weights of the checkpoints",
                 "optimizer's moments, beside them"):
        assert line in said, said
