import commands
import h5py
import numpy as np
import propagation_check
import pytest
from idistill.propagation_quality import by_task
from result_files import write_result
from scipy.stats import spearmanr

run, refused = commands.of(propagation_check)

TASK = np.array([0, 0, 1])


def write(path, ids, sources, influence, exact, propagation, landmarks=(), columns=("t-0", "t-1", "u-0")):
    write_result(
        path, ids=ids, sources=sources, scores=by_task(influence, TASK), tasks=["t", "u"], columns=list(columns), column_task=TASK,
        selected=[0], selected_columns=[0], weights=[1], propagation=propagation,
    )  # fmt: skip
    with h5py.File(path, "a") as file:
        file["influence"], file["exact"] = influence.astype(np.float32), np.asarray(exact, np.uint8)
        if propagation != "none":
            file["landmark/index"] = np.array(landmarks, np.int64)
    return path


@pytest.fixture
def files(tmp_path):
    """The truth of 40 of 90 samples, in another order; the propagation labelled 10, and one row of each is not finite."""
    random = np.random.default_rng(5)
    truth = random.normal(size=(90, 3))
    sources = [f"s{i % 3}" for i in range(90)]
    truth += np.arange(90)[:, None] % 3
    guess = truth + 0.3 * random.normal(size=truth.shape)
    labelled = random.permutation(90)[:10]
    guess[labelled] = truth[labelled]
    guess[3] = np.nan
    ids = [f"id-{i}" for i in range(90)]
    part = random.permutation(90)[:40]
    own = truth[part].copy()
    own[7] = np.nan
    exact = write(tmp_path / "exact.h5", [ids[i] for i in part], [sources[i] for i in part], own, np.isfinite(own).all(1), "none")
    result = write(tmp_path / "w.h5", ids, sources, guess, np.isin(np.arange(90), labelled), "kernel-ridge", labelled)
    rows = [i for place, i in enumerate(part) if i not in labelled and i != 3 and place != 7]
    return exact, result, truth[rows].astype(np.float32), guess[rows].astype(np.float32), np.array(sources)[rows]


def test_figures_are_those_of_their_definitions(files, monkeypatch, capsys):
    exact, result, truth, guess, source = files
    run(monkeypatch, "--exact", exact, result)
    name, labelled, samples, *values = capsys.readouterr().out.splitlines()[1].split()
    assert (name, int(labelled), int(samples)) == (str(result), 10, len(truth))
    means = [np.stack([rows[:, :2].mean(1), rows[:, 2]], 1).astype(float) for rows in (truth, guess)]
    expected = [1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()]
    inner = [rows - np.stack([rows[source == own].mean(0) for own in source]) for rows in means]
    for true, found in (inner, means):
        expected.append(np.mean([1 - ((true - found)[:, t] ** 2).sum() / ((true[:, t] - true[:, t].mean()) ** 2).sum() for t in (0, 1)]))
    expected.append(np.mean([spearmanr(means[0][:, t], means[1][:, t])[0] for t in (0, 1)]))
    np.testing.assert_allclose([float(value) for value in values[:4]], expected, atol=6e-4)
    assert float(values[4]) == 2.0


def test_bad_input_is_named(files, tmp_path, monkeypatch):
    exact, result, truth, _, _ = files
    assert "w.h5: expected a run with --propagation none" in refused(monkeypatch, "--exact", result, result)
    other = write(tmp_path / "o.h5", ["a", "b"], ["s", "s"], truth[:2], [0, 0], "kernel-ridge", columns=("t-0", "t-9", "u-0"))
    assert "o.h5: /column/name: expected the columns of" in refused(monkeypatch, "--exact", exact, other)
    same = write(tmp_path / "s.h5", ["a", "b"], ["s", "s"], truth[:2], [0, 0], "kernel-ridge")
    assert "s.h5: /exact: expected samples that were predicted here" in refused(monkeypatch, "--exact", exact, same)


def test_another_contrast_is_another_influence(files, monkeypatch):
    """Rows are of a result's own pool: it is their ids that count."""
    exact, result, *_ = files
    with h5py.File(exact, "a") as of, h5py.File(result, "a") as to:
        ids, every = of["id"].asstr()[:].tolist(), to["id"].asstr()[:].tolist()
        of["contrast/index"], to["contrast/index"] = [1, 4], [every.index(ids[4]), every.index(ids[1])]
    run(monkeypatch, "--exact", exact, result)
    with h5py.File(result, "a") as to:
        to["contrast/index"][0] = every.index(ids[5])
    assert "w.h5: /contrast/index: expected the samples of" in refused(monkeypatch, "--exact", exact, result)
