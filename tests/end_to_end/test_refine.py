"""--refine: which samples get exact influence, what the selection does with it, and what is said about it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas
import pytest
import truth
from idistill.result import Result
from program import ENVIRONMENT, MPIRUN, PROGRAM, assert_same, attributes, run, run_alone
from tiny import make_target, write_tokens

JOBS = Path(__file__).resolve().parents[2] / "jobs"
RIDGE = ["--landmarks", 60, "--embedding", "hidden", "--jvp-blocks", 2, "--sketch", "none"]
RUNS = {
    "round-robin": ["--selection", "round-robin", "--select", 20, "--refine", 3],
    "capped": ["--selection", "top-k", "--select", "8%", "--refine", 2.6, "--source-cap", "math=3", "web=0"],
    "maximum": ["--selection", "top-k", "--top-k-by", "max", "--normalize", "none", "--select", 9, "--refine", 5],
    "auto": ["--select-tokens", 300, "--refine", "auto", "--source-cap", "code=5"],
    "auto-tasks": ["--columns", "tasks", "--selection", "top-k", "--select", "4%", "--refine", "auto"],
}
EXACT_OF = {"capped": "round-robin", "auto": "round-robin"}  # whose exact influence they have: another selection changes none
AUTO = [name for name in RUNS if name.startswith("auto")]
FACTORS = (2, 3, 4, 6, 8, 12)


class Case(NamedTuple):
    refined: dict  # datasets of the result
    predicted: dict  # of the same run without --refine
    exact: dict  # with --propagation none
    attributes: dict
    said: str
    path: Path  # of the result


def contents(path) -> dict:
    with Result(path) as result:
        return {name: result[name] for name in result.names()}


def without(arguments, option):
    at = arguments.index(option)
    return arguments[:at] + arguments[at + 2:]


def option(name, flag, default=None):
    return RUNS[name][RUNS[name].index(flag) + 1] if flag in RUNS[name] else default


@pytest.fixture(scope="module")
def cases(inputs, tmp_path_factory):
    """Cases by name, each computed when it is first asked for."""
    directory = tmp_path_factory.mktemp("refined")
    done = {}

    def exact(name) -> Path:
        path = directory / f"{name}-exact.h5"
        if not path.exists():
            plain = without(RUNS[name], "--refine")
            sketch = [] if "tasks" in plain else ["--sketch", "none"]
            run_alone(*inputs.arguments(path, "--propagation", "none", *sketch, *plain, *inputs.unit))
        return path

    def get(name) -> Case:
        if name not in done:
            refined, predicted = (directory / f"{name}-{kind}.h5" for kind in ("refined", "predicted"))
            said = run(2, *inputs.arguments(refined, *RIDGE, *RUNS[name], *inputs.unit))
            run_alone(*inputs.arguments(predicted, *RIDGE, *without(RUNS[name], "--refine"), *inputs.unit))
            done[name] = Case(contents(refined), contents(predicted), contents(exact(EXACT_OF.get(name, name))), attributes(refined), said,
                              refined)
        return done[name]

    return get


def lists_of(name, influence, column_task):
    means = truth.task_means(influence, column_task)
    if "top-k" in RUNS[name]:
        return [(-1, means.max(1) if "max" in RUNS[name] else means.mean(1))]
    return [(column, influence[:, column]) for column in truth.interleaved(column_task)]


def caps_of(name, factor=1.0):
    caps = re.findall(r"(\w+)=(\d+)", " ".join(map(str, RUNS[name])))
    return {source: max(1, int(int(count) * factor + 0.5)) if int(count) else 0 for source, count in caps}


def budget_of(name, inputs) -> int:
    """Samples of the budget; for tokens, what they buy at the mean length of the samples with labels."""
    count = str(option(name, "--select", ""))
    if count:
        return int(len(inputs.pool) * float(count[:-1]) / 100 + 0.5) if count.endswith("%") else int(count)
    labelled = [len(s.tokens) for i, s in enumerate(inputs.pool) if inputs.reasons.get(i, "not finite") == "not finite"]
    return max(1, int(min(1, option(name, "--select-tokens") / sum(labelled)) * len(labelled) + 0.5))


def gain(lists, picks):
    """Mean influence of the picks, each on its list, over the mean of the pool."""
    values = {column: own.astype(float) for column, own in lists}
    return np.mean([values[column][row] - np.nanmean(values[column]) for row, column in picks])


@pytest.mark.parametrize("name", RUNS)
def test_the_best_predicted_get_exact_influence(cases, inputs, name):
    case = cases(name)
    before, after, column_task = case.predicted["influence"], case.refined["influence"], case.refined["column/task"]
    factor = case.attributes["refine_factor"]
    wanted = int(factor * budget_of(name, inputs) + 0.5)
    candidates = before.copy()
    candidates[case.refined["landmark/index"]] = np.nan
    picks = truth.choose(lists_of(name, candidates, column_task), inputs.pool, count=wanted, caps=caps_of(name, factor))
    assert case.attributes["refine_shortlist"] == len(picks)
    refined = sorted(row for row, _ in picks)
    assert 5 < len(refined) < 200
    marked = case.predicted["exact"].copy()
    marked[refined] = 1
    assert np.array_equal(case.refined["exact"], marked)
    for what in ("influence", "gradient_norm"):
        others = np.setdiff1d(np.arange(len(inputs.pool)), refined)
        assert case.refined[what][others].tobytes() == case.predicted[what][others].tobytes()
        expected = case.exact[what][refined]
        assert np.abs(case.refined[what][refined] - expected).max() < 1e-4 * np.abs(expected).max()
        assert np.abs(case.predicted[what][refined] - expected).max() > 1e-2 * np.abs(expected).max()
    assert np.allclose(case.refined["score"], truth.task_means(after, column_task), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", RUNS)
def test_the_selection_uses_what_is_exact(cases, inputs, name):
    case = cases(name)
    budget = {"tokens": option(name, "--select-tokens")} if option(name, "--select-tokens") else {"count": budget_of(name, inputs)}
    lists = lists_of(name, case.refined["influence"], case.refined["column/task"])
    expected = truth.choose(lists, inputs.pool, caps=caps_of(name), **budget)
    picks = list(zip(case.refined["selected/index"], case.refined["selected/column"]))
    assert picks == expected
    alone = list(zip(case.predicted["selected/index"], case.predicted["selected/column"]))
    ratio = gain(lists, picks) / gain(lists, alone)
    assert case.attributes["refine_gain"] == pytest.approx(ratio, rel=1e-9)
    assert ratio > 1
    recall = 100 * len(set(dict(picks)) & set(dict(alone))) / len(picks)
    assert f"of the selection {recall:.1f}% would have been picked by prediction alone" in case.said
    assert f"is {ratio:.3f} x that of prediction alone" in case.said


@pytest.mark.parametrize("name", ["round-robin", "capped"])
def test_agreement_on_the_refined_rows(cases, name):
    case = cases(name)
    refined = np.flatnonzero(case.refined["exact"] != case.predicted["exact"])
    exact, predicted = (truth.task_means(own["influence"][refined], case.refined["column/task"])
                        for own in (case.refined, case.predicted))
    table = case.said[case.said.index("predicted against exact"):]
    for task, label in enumerate(("math", "code")):
        r2, spearman = map(float, re.search(rf"^  {label} +(\S+) +(\S+)$", table, re.M).groups())
        assert abs(r2 - truth.r_squared(exact[:, task], predicted[:, task])) < 1e-3
        assert abs(spearman - pandas.Series(exact[:, task]).corr(pandas.Series(predicted[:, task]), method="spearman")) < 1e-3
    assert f"refined: {len(refined)} samples beside the landmarks" in case.said
    assert case.attributes["refine_shortlist"] == len(refined)


@pytest.mark.parametrize("name", RUNS)
def test_expected_gain_and_recall_done_again(cases, inputs, name):
    """Landmarks as a small pool: their leave-one-out predictions, of which the best become exact."""
    case = cases(name)
    exact, predicted = case.refined["landmark/influence"], case.refined["landmark/loo"]
    known = np.isfinite(exact).all(1) & np.isfinite(predicted).all(1)
    exact, predicted = exact[known], predicted[known]
    samples = [inputs.pool[i] for i in case.refined["landmark/index"][known]]
    eligible = sum(inputs.reasons.get(i, "not finite") == "not finite" for i in range(len(inputs.pool)))
    share = budget_of(name, inputs) / eligible
    column_task = case.refined["column/task"]

    def chosen(values, count, factor):
        caps = {source: max(1, int(cap * factor + 0.5)) if cap else 0
                for source, cap in caps_of(name, len(samples) / eligible).items()}
        return truth.choose(lists_of(name, values, column_task), samples, count=max(1, int(count + 0.5)), caps=caps)

    def expected(factor):
        mixed = predicted.copy()
        if factor:
            part = min(1, factor * budget_of(name, inputs) / (eligible - len(samples)))
            refined = [row for row, _ in chosen(predicted, part * len(samples), factor)]
            mixed[refined] = exact[refined]
        lists = lists_of(name, exact, column_task)
        picks, best = (chosen(values, share * len(samples), 1) for values in (mixed, exact))
        return gain(lists, picks) / gain(lists, best), len(dict(picks).keys() & dict(best).keys()) / len(best)

    rows = re.findall(r"^ +(none|[\d.]+) +(?:-|[\d.]+%) +(\S+) +(\S+)(?:  (chosen|given))?$", case.said, re.M)
    given = None if name in AUTO else float(option(name, "--refine"))
    assert [own for own, *_ in rows] == ["none", *(f"{factor:g}" for factor in sorted({*FACTORS, *filter(None, [given])}))]
    for factor, of_gain, recall, _ in rows:
        assert np.allclose((float(of_gain), float(recall)), expected(0 if factor == "none" else float(factor)), atol=1e-3)
    enough = [factor for factor in FACTORS if expected(factor)[0] >= 0.95]
    used = given or (enough or FACTORS)[0 if enough else -1]
    assert case.attributes["refine_factor"] == used
    assert [(factor, mark) for factor, *_, mark in rows if mark] == [(f"{used:g}", "given" if given else "chosen")]
    assert float(rows[-1][1]) >= float(rows[0][1])


@pytest.mark.parametrize("name", ["round-robin", "auto", "auto-tasks"])
def test_same_bytes_at_any_number_of_ranks(cases, inputs, tmp_path, name):
    """The case's are of two."""
    for ranks in (1, 3, 5):
        run(ranks, *inputs.arguments(tmp_path / f"{ranks}.h5", *RIDGE, *RUNS[name], *inputs.unit))
        assert_same(tmp_path / f"{ranks}.h5", cases(name).path)


def test_a_shortlist_of_everything_equals_no_propagation(cases, inputs, tmp_path):
    run(2, *inputs.arguments(tmp_path / "all.h5", *RIDGE, "--selection", "round-robin", "--select", 20, "--refine", 12, *inputs.unit))
    found, exact = contents(tmp_path / "all.h5"), cases("round-robin").exact
    assert np.array_equal(found["exact"], exact["exact"])
    assert np.allclose(found["influence"], exact["influence"], atol=1e-5, equal_nan=True)
    assert np.array_equal(found["selected/column"], exact["selected/column"])
    picked = [one["influence"][one["selected/index"], one["selected/column"]] for one in (found, exact)]
    assert np.allclose(*picked, atol=1e-5)


def test_first_order_refines_the_best_by_the_mean_over_columns_and_weighs_what_is_then_known(inputs, tmp_path):
    """With a target of two samples, whose mean over tasks is another."""
    few = write_tokens(tmp_path / "few.h5", make_target("few", 2, 9))
    out = {}
    for name, refine in (("default", ["--refine", 3]), ("alone", [])):
        said = run(2, *inputs.arguments(tmp_path / f"{name}.h5", "--target", f"few={few}", *RIDGE, "--order", "first-order", "--select", 20,
                                         *refine, *inputs.unit))
        out[name] = contents(tmp_path / f"{name}.h5")
        if name == "default":
            ratio = float(re.search(r"is (\S+) x that of prediction alone", said).group(1))
    found, alone = out["default"], out["alone"]
    open_to = np.setdiff1d(np.flatnonzero(np.isfinite(alone["influence"]).all(1)), alone["landmark/index"])
    by_columns, by_tasks = (open_to[np.argsort(-own[open_to], kind="stable")[:60]]
                            for own in (alone["influence"].astype(float).mean(1), alone["score"].mean(1)))
    refined = np.setdiff1d(np.flatnonzero(found["exact"]), found["landmark/index"])
    assert np.array_equal(refined, np.sort(by_columns)) and set(by_columns) != set(by_tasks)
    run(1, "select", "--result", tmp_path / "default.h5", "--out", tmp_path / "again.h5", "--select", 20, "--order", "first-order")
    assert np.array_equal(contents(tmp_path / "again.h5")["weight"], found["weight"]) and len(set(found["weight"])) > 5
    p = found["influence"].astype(float).mean(1)  # of the columns, as the weights count them

    def gain(one):
        return np.average(p[one["selected/index"]], weights=one["selected/weight"]) - np.nanmean(p)

    assert abs(ratio - gain(found) / gain(out["alone"])) < 1e-3
    assert abs(attributes(tmp_path / "default.h5")["refine_gain"] - gain(found) / gain(out["alone"])) < 1e-5


def test_second_order_refines_what_would_get_weight_by_prediction(inputs, tmp_path):
    """As `select` chooses so many of the unrefined result, where landmarks are out of the question; at any rank count."""
    plain = inputs.arguments(tmp_path / "plain.h5", *RIDGE, "--select", 20, *inputs.unit)
    run(2, *plain)
    shutil.copy(tmp_path / "plain.h5", tmp_path / "open.h5")
    with h5py.File(tmp_path / "open.h5", "r+") as file:
        landmarks, old = file["landmark/index"][:], file["quarantine/index"][:]
        rows = np.union1d(landmarks, old)
        reasons = dict(zip(old, file["quarantine/reason"][:]))
        kind = file["quarantine/reason"].dtype
        del file["quarantine/index"], file["quarantine/reason"]
        file["quarantine/index"] = rows
        file.create_dataset("quarantine/reason", data=[reasons.get(row, b"a landmark") for row in rows], dtype=kind)
        for name in ("influence", "score"):
            values = file[name][:]
            values[landmarks] = np.nan
            file[name][...] = values
    run(1, "select", "--result", tmp_path / "open.h5", "--out", tmp_path / "expected.h5", "--select", 60)
    expected = np.sort(contents(tmp_path / "expected.h5")["selected/index"])
    mean = contents(tmp_path / "open.h5")["influence"].astype(float).mean(1)
    assert len(expected) == 60 and set(expected) != set(np.argsort(-np.nan_to_num(mean, nan=-9))[:60])
    for ranks in (1, 2, 3):
        out = tmp_path / f"refined-{ranks}.h5"
        run(ranks, *inputs.arguments(out, *RIDGE, "--select", 20, "--refine", 3, *inputs.unit))
        found = contents(out)
        assert np.array_equal(np.setdiff1d(np.flatnonzero(found["exact"]), found["landmark/index"]), expected)
        assert attributes(out)["refine_shortlist"] == 60


def test_a_source_that_weights_may_not_favour_does_not_fill_the_shortlist(inputs, tmp_path):
    """It gets its part of the weight's limit, rounded up, of the shortlist."""
    sources = np.array([s.source for s in inputs.pool])
    refined = {}
    for name, limits in (("free", []), ("limited", ["--source-share", "math=0.05"])):
        out = tmp_path / f"{name}.h5"
        run(2, *inputs.arguments(out, *RIDGE, "--selection", "weighted", "--select", 20, "--refine", 3, *limits, *inputs.unit))
        found = contents(out)
        score = found["score"].mean(1)
        rows = np.setdiff1d(np.flatnonzero(found["exact"]), found["landmark/index"])
        refined[name] = np.count_nonzero(sources[rows] == "math")
        assert attributes(out)["refine_shortlist"] == 60 and np.isfinite(score[rows]).all()
    assert refined["limited"] <= 3 < refined["free"]


def test_nothing_left_to_refine(inputs, tmp_path):
    """Every sample is a landmark already."""
    arguments = [*RIDGE[2:], "--select", 20, *inputs.unit]
    said = run(2, *inputs.arguments(tmp_path / "refined.h5", *arguments, "--refine", 2))
    run(2, *inputs.arguments(tmp_path / "plain.h5", *arguments))
    assert "refined: 0 samples beside the landmarks" in said
    found, plain = contents(tmp_path / "refined.h5"), contents(tmp_path / "plain.h5")
    assert all(found[name].tobytes() == plain[name].tobytes() for name in plain)
    assert attributes(tmp_path / "refined.h5")["refine_gain"] == 1


def test_automatic_bandwidth_is_logged_and_written(inputs, tmp_path):
    said = run(2, *inputs.arguments(tmp_path / "out.h5", *RIDGE, "--bandwidth", "auto", *inputs.unit))
    rows = re.findall(r"^ +(\S+) +\S+ +(?:with|without) +(\S+?)(  chosen)?$", said, re.M)
    widths, errors = (np.array([float(row[i]) for row in rows]) for i in (0, 1))
    assert np.allclose(widths / widths[2], [0.25, 0.5, 1, 2, 4], rtol=1e-3)
    best = [bool(row[2]) for row in rows].index(True)
    assert errors[best] == errors.min()
    assert abs(attributes(tmp_path / "out.h5")["bandwidth"] / widths[best] - 1) < 1e-3


def refine_check(inputs, out, budgets, factors, *options) -> str:
    """What the job says."""
    targets = [f"{name}={path}" for name, path in inputs.target_files.items()]
    command = [sys.executable, JOBS / "refine_check.py", "--program", PROGRAM, "--mpirun", MPIRUN, "--ranks", 1, "--out", out,
               "--budgets", *budgets, "--refine", *factors, "--propagated", " ".join(map(str, [*RIDGE[:6], *inputs.unit])), "--",
               "--model", inputs.model, "--pool", inputs.pool_file, "--target", *targets, "--sketch", "none", *options]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [
    [], ["--order", "first-order"], ["--curvature", "hessian", "--curvature-rank", 8, "--learning-rate", 0.1],
])
def test_refine_check_of_weights(inputs, tmp_path, options):
    """They gain by weight, as the mean over columns says, and by default less what they have in common: what is maximised."""
    said = refine_check(inputs, tmp_path, ["10%"], [3], *options)
    (row,) = re.findall(r"^ +10% +3 +\d+ +([\d.]+) +([\d.]+) +([\d.]+) ", said, re.M)
    best, found = (contents(next(tmp_path.glob(f"{name}-*.h5"))) for name in ("best-10", "refine-3-10"))
    written = attributes(next(tmp_path.glob("best-10-*.h5")))
    influence = np.nan_to_num(best["influence"].astype(float))
    usable = np.isfinite(best["influence"]).all(1)
    count, columns = len(usable), influence.shape[1]
    if "hessian" in options:
        factor = np.nan_to_num(best["curvature/factor"].astype(float))[:, best["curvature/value"] > 0]
        curved = factor @ factor.T / count
    else:
        curved = (influence * (best["column/label_tokens"] * best["column/gradient_norm"] / columns)) @ influence.T / count
    eta = written["weights_learning_rate"]
    assert (eta == 0) == ("first-order" in options)

    def objective(weight):
        """-(-p.w + (eta/2) w'Qw) per sample, with sum w = N."""
        return (influence.mean(1) @ weight - eta / 2 * weight @ curved @ weight) / count

    gains, over_tasks = [], []
    for one in (found, best):
        index, weight = one["selected/index"], one["selected/weight"].astype(float)
        assert len(set(weight)) > 5
        whole = np.zeros(count)
        whole[index] = weight * count / weight.sum()
        gains.append(objective(whole) - objective(usable * count / usable.sum()))
        score = best["score"].astype(float).mean(1)
        over_tasks.append((score[index] * weight).sum() / weight.sum() - np.nanmean(score))
    assert 0 < gains[0] <= gains[1] * (1 + 1e-6) or "hessian" in options
    recall = len(set(found["selected/index"]) & set(best["selected/index"])) / len(best["selected/index"])
    assert np.allclose(list(map(float, row)), [gains[0] / gains[1], recall, over_tasks[0] / over_tasks[1]], atol=1e-3)


def test_refine_check(inputs, tmp_path):
    """The job's figures against those of results made here."""
    for _ in range(2):  # what is there is not computed again
        said = refine_check(inputs, tmp_path, ["10%", "4%"], [0, 3], "--selection", "round-robin")
    exact = contents(next(tmp_path.glob("exact-*.h5")))
    assert len(list(tmp_path.glob("*.h5"))) == 7  # and the selections from it
    rows = re.findall(r"^ +(\S+%) +(\d+) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", said, re.M)
    assert [row[:2] for row in rows] == [("10%", "0"), ("10%", "3"), ("4%", "0"), ("4%", "3")]
    column_task = exact["column/task"]
    lists = [(column, exact["influence"][:, column].astype(float)) for column in range(len(column_task))]
    for budget, factor, shortlist, of_gain, recall, over_tasks, seconds, of_time in rows:
        count = int(0.01 * float(budget[:-1]) * len(inputs.pool) + 0.5)
        best = truth.choose([lists[c] for c in truth.interleaved(column_task)], inputs.pool, count=count)
        with Result(next(tmp_path.glob(f"refine-{factor}-{budget[:-1]}-*.h5"))) as result:
            picks = list(zip(result["selected/index"], result["selected/column"]))
            assert int(shortlist) == result.attributes.get("refine_shortlist", 0)
            assert int(shortlist) == result["exact"].sum() - np.isfinite(result["landmark/influence"]).all(1).sum()
        assert abs(float(of_gain) - gain(lists, picks) / gain(lists, best)) < 1e-3
        assert abs(float(recall) - len(set(dict(picks)) & set(dict(best))) / count) < 1e-3
        assert float(seconds) > 0 and float(of_time) > 0
