"""--propagation network: what it holds out and how it judges itself, against numpy; edges, and the same bits everywhere."""

import re

import numpy as np
import pytest
import truth
from idistill.output_file import OutputFile
from made_files import write_embedding
from program import assert_same, attributes, run, run_alone, text
from scipy.stats import spearmanr
from tiny import Inputs, make_target

WIDTH = 16
NETWORK = ["--propagation", "network"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("network"), 240, 24)


@pytest.fixture(scope="module")
def embedded(inputs, tmp_path_factory):
    """A file with sentence embeddings of the pool and of all targets, and the rows by id; sources have a direction each."""
    random = np.random.default_rng(8)
    samples = {s.id: s for s in [*inputs.pool, *(s for own in inputs.targets.values() for s in own)]}
    centres = {source: random.normal(size=WIDTH) for source in sorted({s.source for s in samples.values()})}
    rows = {name: (centres[s.source] + random.normal(size=WIDTH)).astype(np.float32) for name, s in samples.items()}
    path = tmp_path_factory.mktemp("embedded") / "sentences.h5"
    return write_embedding(path, rows, rows.values()), rows


def arguments(inputs, out, embedding, *extra, targets=True):
    words = inputs.arguments(out, "--embedding", embedding, "--selection", "top-k", "--select", 20, *NETWORK, *extra)
    if targets:
        return words
    first = words.index("--target")
    return words[:first] + words[first + 3:] + ["--influence", "delift-se", "--sentence-embedding", embedding]


def read(path, *names):
    with OutputFile(path) as file:
        return [file[name] for name in names]


def cosines(rows, columns):
    unit = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in (np.float64(rows), np.float64(columns))]
    return unit[0] @ unit[1].T


def r_squared(truth_values, found):
    return 1 - ((found - truth_values) ** 2).sum() / ((truth_values - truth_values.mean()) ** 2).sum()


def judged(labels, found, held_rows, held_columns, rows, columns, is_self, cosine):
    """MSE, R2 and Spearman of the predictors on the held-out pairs."""
    held = np.zeros_like(is_self)
    held[np.ix_(held_rows, held_columns)] = True
    held &= ~is_self
    learnt = np.zeros_like(is_self)
    learnt[np.ix_(rows, columns)] = True
    learnt &= ~is_self
    line = np.polyfit(cosine[learnt], labels[learnt], 1)
    known = np.ones_like(is_self)
    known[:, np.setdiff1d(np.arange(labels.shape[1]), columns)] = False
    sample_mean = np.full_like(labels, np.nan)
    for i, j in np.argwhere(held):
        own = known[i] & ~is_self[i]
        own[j] = False
        sample_mean[i, j] = labels[i][own].mean()
    target_mean = np.array([labels[rows, j][~is_self[rows, j]].mean() for j in range(labels.shape[1])])
    predictors = {"network": found, "constant": np.full_like(labels, labels[learnt].mean()), "cosine": np.polyval(line, cosine),
                  "sample mean": sample_mean, "target mean": np.broadcast_to(target_mean, labels.shape)}
    value = labels[held]
    return {name: (((p[held] - value) ** 2).mean(), r_squared(value, p[held]),
                   np.nan if name == "constant" else spearmanr(value, p[held])[0]) for name, p in predictors.items()}


def check_judged(out, expected):
    names, mse, r2, spearman = read(out, *(f"network/held_out/{n}" for n in ("predictor", "mse", "r2", "spearman")))
    assert text(names) == list(expected)
    for i, (name, (error, fit, ranks)) in enumerate(expected.items()):
        assert mse[i] == pytest.approx(error, rel=1e-3, abs=1e-9), name
        assert r2[i] == pytest.approx(fit, rel=1e-3, abs=1e-3), name
        if not np.isnan(ranks):
            assert spearman[i] == pytest.approx(ranks, abs=2e-3), name


def test_labelled_samples_as_targets(inputs, embedded, tmp_path):
    path, rows = embedded
    out = tmp_path / "out.h5"
    said = run(2, *arguments(inputs, out, path, "--landmarks", 120, targets=False))
    landmarks, labels, found, influence = read(out, "landmark/index", "landmark/influence", "landmark/loo", "influence")
    e = np.array([rows[inputs.pool[i].id] for i in landmarks])
    cosine = cosines(e, e)
    assert np.allclose(labels, cosine, atol=1e-5)
    held = np.flatnonzero(np.isfinite(found).all(1))
    assert len(held) == 12 and np.isnan(np.delete(found, held, 0)).all()
    others = np.setdiff1d(np.arange(120), held)
    check_judged(out, judged(np.float64(labels), np.float64(found), held, held, others, others, np.eye(120, dtype=bool), cosine))
    assert f"{12 * 11} pairs of 12 held-out samples and 12 held-out targets" in said
    # trust: means over all columns but the sample itself
    off = ~np.eye(120, dtype=bool)
    means = [np.array([values[i][off[i]].mean() for i in held]) for values in (np.float64(labels), np.float64(found))]
    r2, spearman, alone = read(out, "task/loo_r2", "task/loo_spearman", "task/loo_r2_source_only")
    assert r2[0] == pytest.approx(r_squared(*means), abs=1e-4)
    assert spearman[0] == pytest.approx(spearmanr(*means)[0], abs=1e-4)
    source = np.array([inputs.pool[i].source for i in landmarks])
    every = np.array([labels[i][off[i]].mean() for i in range(120)])
    by_source = np.array([every[others][source[others] == source[i]].mean() for i in held])
    assert alone[0] == pytest.approx(r_squared(means[0], by_source), abs=1e-4)
    # what it predicts for the pool is as good as what it says of itself
    unlabelled = np.setdiff1d(np.flatnonzero(np.isfinite(influence).all(1)), landmarks)
    expected = cosines([rows[inputs.pool[i].id] for i in unlabelled], e)
    assert r_squared(expected, influence[unlabelled]) > 0.5
    assert attributes(out)["network_pairs"] == 108 * 107
    assert attributes(out)["network_parameters"] == 2 * WIDTH * 100 + 100 + 100 + 1


@pytest.mark.parametrize("columns", ["samples", "tasks"])
def test_targets_in_files(inputs, embedded, tmp_path, columns):
    """47 targets: a tenth of them is held out as well; two tasks are too few for that."""
    path, rows = embedded
    out = tmp_path / "out.h5"
    said = run(2, *arguments(inputs, out, path, "--landmarks", 100, "--columns", columns, "--influence", "delift-se",
                             "--sentence-embedding", path))
    landmarks, labels, found, names = read(out, "landmark/index", "landmark/influence", "landmark/loo", "column/name")
    e = np.array([rows[inputs.pool[i].id] for i in landmarks])
    if columns == "samples":
        targets = np.array([rows[name] for name in text(names)])
    else:
        targets = np.array([np.mean([rows[s.id] for s in own if truth.is_usable(s) or "bad-5" in s.id], 0)
                            for own in inputs.targets.values()])
    held = np.flatnonzero(np.isfinite(found).all(1))
    others = np.setdiff1d(np.arange(100), held)
    assert len(held) == 10
    every = np.arange(labels.shape[1])
    if columns == "tasks":
        assert "which are too few to hold any out" in said
        check_judged(out, judged(np.float64(labels), np.float64(found), held, every, others, every,
                                 np.zeros(labels.shape, bool), cosines(e, targets)))
        return
    count = len(every) // 10
    assert f"{10 * count} pairs of 10 held-out samples and {count} held-out targets" in said
    assert attributes(out)["network_pairs"] == 90 * (len(every) - count)


@pytest.fixture(scope="module")
def whole(inputs, embedded, tmp_path_factory):
    """Gradient influence, whose norm propagates beside it, by one rank."""
    out = tmp_path_factory.mktemp("whole") / "1.h5"
    said = run(1, *arguments(inputs, out, f"hidden+{embedded[0]}", "--landmarks", 80, *inputs.unit))
    return out, said


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_same_bits_at_any_number_of_ranks(inputs, embedded, whole, tmp_path, ranks):
    out = tmp_path / "out.h5"
    run(ranks, *arguments(inputs, out, f"hidden+{embedded[0]}", "--landmarks", 80, *inputs.unit))
    assert_same(out, whole[0])


def test_gradient_influence_and_its_norm(inputs, whole):
    influence, norm, exact = read(whole[0], "influence", "gradient_norm", "exact")
    finite = np.isfinite(influence).all(1)
    assert finite.sum() > 200 and (norm[finite] > 0).all()
    assert "network of pairs" in whole[1] and "network of samples alone" in whole[1]
    assert exact.sum() <= 80


def test_as_many_epochs_as_help(inputs, whole):
    error, held = read(whole[0], "network/epoch/error", "network/epoch/held_out_error")
    assert len(error) == len(held) <= 20
    best = int(np.argmin(held))
    assert attributes(whole[0])["network_epoch"] == best + 1
    assert len(held) == min(20, best + 1 + 3)


def test_it_stops_where_no_epoch_helps(inputs, embedded, tmp_path):
    """Labels that have nothing to do with the embedding: the more is learnt of them, the worse."""
    path, rows = embedded
    random = np.random.default_rng(31)
    noise = write_embedding(tmp_path / "noise.h5", list(rows), random.normal(size=(len(rows), WIDTH)))
    words = arguments(inputs, tmp_path / "out.h5", path, "--landmarks", 60, targets=False)
    words[words.index("--sentence-embedding") + 1] = noise
    said = run(2, *words)
    error, held = read(tmp_path / "out.h5", "network/epoch/error", "network/epoch/held_out_error")
    best = int(np.argmin(held))
    assert len(error) == len(held) == best + 1 + 3 < 20
    assert attributes(tmp_path / "out.h5")["network_epoch"] == best + 1
    assert f"in {len(held)} epochs of 12 passes, that of epoch {best + 1} kept" in said
    assert error[-1] < error[best]  # of what it has seen it goes on to learn


@pytest.mark.parametrize("extra", [["--pairs", 500], ["--network-symmetric", "on"], ["--network-residual", "on"],
                                   ["--network-depth", 2, "--network-width", 20], ["--network-standardise", "off"]])
def test_every_form_learns(inputs, embedded, tmp_path, extra):
    out = tmp_path / "out.h5"
    run_alone(*arguments(inputs, out, embedded[0], "--landmarks", 150, *extra, targets=False))
    error, = read(out, "network/epoch/error")
    mse, r2 = read(out, "network/held_out/mse", "network/held_out/r2")
    assert error[-1] < error[0] or error[0] < 1e-6
    assert mse[0] < mse[1]  # the constant
    if "--pairs" in extra:
        assert attributes(out)["network_pairs"] == 500
    if "--network-residual" in extra:  # the labels are cosines
        assert r2[0] > 0.999


def test_landmarks_are_added(inputs, embedded, tmp_path):
    (tmp_path / "many").mkdir()
    many = Inputs(tmp_path / "many", 700)
    run(2, *arguments(many, tmp_path / "out.h5", "hidden", "--landmarks", "auto:400", "--columns", "tasks"))
    counts, = read(tmp_path / "out.h5", "landmark/growth/landmarks")
    assert counts[0] == 256
    run(1, *arguments(many, tmp_path / "fixed.h5", "hidden", "--landmarks", counts[-1], "--columns", "tasks"))
    one, other = (read(tmp_path / name, "influence", "network/epoch/error") for name in ("out.h5", "fixed.h5"))
    assert np.array_equal(one[0], other[0], equal_nan=True) and np.array_equal(one[1], other[1])


def test_one_and_two_labelled_samples(inputs, embedded, tmp_path):
    path = embedded[0]
    for landmarks in (1, 2):
        out = tmp_path / f"{landmarks}.h5"
        said = run(2, *arguments(inputs, out, path, "--landmarks", landmarks))
        assert np.isfinite(read(out, "influence")[0]).all(1).sum() > 200
        if landmarks == 1:
            assert "too few samples are labelled to hold any out" in said
    out = tmp_path / "pool2.h5"
    said = run(2, *arguments(inputs, out, path, "--landmarks", 2, targets=False))
    assert "too few samples are labelled to hold any out" in said and attributes(out)["network_pairs"] == 2
    said = run_alone(*arguments(inputs, tmp_path / "pool1.h5", path, "--landmarks", 1, targets=False), exit_code=3)
    assert "pairs of two labelled samples: expected at least one" in said


def test_labels_that_are_all_equal(inputs, embedded, tmp_path):
    """Every sentence has the same embedding: the network says what all labels are."""
    path, rows = embedded
    equal = write_embedding(tmp_path / "equal.h5", rows, np.tile(np.arange(1, 5), (len(rows), 1)))
    words = arguments(inputs, tmp_path / "out.h5", path, "--landmarks", 60, targets=False)
    words[words.index("--sentence-embedding") + 1] = equal
    said = run(2, *words)
    influence, = read(tmp_path / "out.h5", "influence")
    assert np.abs(influence[np.isfinite(influence).all(1)] - 1).max() < 1e-6
    assert "are equal, to within rounding" in said


def test_samples_without_a_finite_embedding(inputs, embedded, tmp_path):
    path, rows = embedded
    usable = [i for i, s in enumerate(inputs.pool) if truth.is_usable(s)]
    lost = usable[::3]
    holes = {**rows, **{inputs.pool[i].id: np.full(WIDTH, np.nan) for i in lost}}
    other = write_embedding(tmp_path / "holes.h5", holes, holes.values())
    out = tmp_path / "out.h5"
    said = run(2, *arguments(inputs, out, other, "--landmarks", 90))
    influence, landmarks = read(out, "influence", "landmark/index")
    assert re.search(r"warning: \d+ of 90 landmarks left out: their --embedding is not finite", said)
    assert np.isnan(influence[np.setdiff1d(lost, landmarks)]).all()
    assert np.isfinite(influence[np.setdiff1d(usable, lost)]).all(1).mean() > 0.95
    target = make_target("code", 1, 4)[0].id
    lacking = {**rows, target: np.full(WIDTH, np.nan)}
    broken = write_embedding(tmp_path / "broken.h5", lacking, lacking.values())
    said = run_alone(*arguments(inputs, tmp_path / "x.h5", broken, "--landmarks", 90), exit_code=3)
    assert f"embedding of a target sample: expected finite numbers, found others, among those of '{target}'" in said


def test_a_file_that_lacks_targets_is_refused(inputs, embedded, tmp_path):
    rows = embedded[1]
    ids = [s.id for s in inputs.pool]
    few = write_embedding(tmp_path / "few.h5", ids, [rows[i] for i in ids])
    said = run_alone(*arguments(inputs, tmp_path / "out.h5", few, "--landmarks", 90), exit_code=3)
    assert "few.h5" in said and "missing" in said and "math.h5" in said


def test_auto_is_refused(inputs, tmp_path):
    said = run_alone(*arguments(inputs, tmp_path / "out.h5", "auto", "--landmarks", 90), exit_code=2)
    assert "--embedding" in said and "--propagation kernel-ridge" in said
