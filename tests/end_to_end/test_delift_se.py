"""--influence delift-se: cosines of sentence embeddings; and targets that are the labelled samples of the pool themselves."""

import json
import os
import signal

import numpy as np
import pytest
from idistill.output_file import OutputFile
from interrupting import at_unit, state_of, units_recovered
from made_files import write_embedding
from program import Job, assert_same, run, run_alone
from tiny import Inputs

WIDTH = 9


def has_labels(sample) -> bool:
    return bool(sample.mask[1:].any())


@pytest.fixture(scope="module")
def usable(inputs):
    return np.array([has_labels(s) for s in inputs.pool])


@pytest.fixture(scope="module")
def targets(inputs):
    """(task, sample) of the usable ones, in order: also those whose gradient is not finite."""
    return [(task, s) for task, own in enumerate(inputs.targets.values()) for s in own if has_labels(s)]


@pytest.fixture(scope="module")
def sentences(inputs, usable, targets, tmp_path_factory):
    """Of pool and targets in one file, in an order of its own; NaN where a sample has no labels, a target without direction."""
    random = np.random.default_rng(11)
    rows = {s.id: random.normal(size=WIDTH) for s in inputs.pool} | {s.id: random.normal(size=WIDTH) for _, s in targets}
    rows |= {s.id: np.full(WIDTH, np.nan) for s, good in zip(inputs.pool, usable) if not good}
    rows[targets[2][1].id] = np.zeros(WIDTH)
    names = random.permutation(list(rows))
    return write_embedding(tmp_path_factory.mktemp("sentences") / "all.h5", names, [rows[name] for name in names]), rows


def unit(rows):
    rows = np.asarray(rows, np.float32).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def delift_se(path):
    return ["--influence", "delift-se", "--sentence-embedding", path]


def of_pool(inputs, out, *extra):
    return ["--model", inputs.model, "--pool", inputs.pool_file, "--out", out, *inputs.unit, *extra]


@pytest.mark.parametrize("columns", ["samples", "tasks"])
def test_influence_is_the_cosine(inputs, usable, targets, sentences, tmp_path, columns):
    path, rows = sentences
    outs = [tmp_path / f"{ranks}.h5" for ranks in (1, 3)]
    for ranks, out in zip((1, 3), outs):
        said = run(ranks, *inputs.arguments(out, "--propagation", "none", "--columns", columns, *delift_se(path)))
        assert "warning: 1 target samples left out: their sentence embedding is zero or not finite" in said
    assert_same(*outs)
    kept = [(task, s) for i, (task, s) in enumerate(targets) if i != 2]
    cosine = unit([rows[s.id] for s, good in zip(inputs.pool, usable) if good]) @ unit([rows[s.id] for _, s in kept]).T
    task = np.array([task for task, _ in kept])
    if columns == "tasks":
        cosine = np.stack([cosine[:, task == t].mean(1) for t in (0, 1)], 1)
    with OutputFile(outs[0]) as file:
        np.testing.assert_allclose(file["/influence"][usable], cosine, atol=1e-6)
        assert np.isnan(file["/influence"][~usable]).all()
        names = list(inputs.targets) if columns == "tasks" else [s.id for _, s in kept]
        assert file.texts("/column/name") == names
        assert targets[2][1].id not in file.texts("/column/name")


def reasons_in(out) -> dict[int, str]:
    with OutputFile(out) as file:
        return dict(zip(file["/quarantine/index"].tolist(), file.texts("/quarantine/reason")))


def test_what_cannot_be_used_is_quarantined(inputs, usable, sentences, tmp_path):
    """Empty, without labels, or so long that none was left: no matter what the file has of them. Nobody asks the model."""
    path, rows = sentences
    finite = write_embedding(tmp_path / "finite.h5", rows, [np.nan_to_num(row, nan=1.0) for row in rows.values()])
    expected = {row: reason for row, reason in inputs.reasons.items() if reason != "not finite"}
    assert "no label tokens after truncation" in expected.values() and len(expected) == (~usable).sum()
    for name, options in {"exact": ["--propagation", "none"], "landmarks": ["--landmarks", 40, "--embedding", "hidden"]}.items():
        out = tmp_path / f"{name}.h5"
        run_alone(*inputs.arguments(out, *options, *delift_se(finite)))
        found = reasons_in(out)
        poison = {row for row, reason in inputs.reasons.items() if reason == "not finite"} if name == "landmarks" else set()
        assert {row: reason for row, reason in found.items() if row not in poison} == expected
        with OutputFile(out) as file:
            assert np.isnan(file["/influence"][list(expected)]).all() and not file["/weight"][list(expected)].any()


@pytest.fixture(scope="module")
def propagated(inputs, sentences, tmp_path_factory):
    """Results from 40 landmarks by the sentence embeddings, of one rank: for targets in files, and of the pool alone."""
    outs = {}
    for name, arguments in (("files", Inputs.arguments), ("pool", of_pool)):
        outs[name] = tmp_path_factory.mktemp("propagated") / f"{name}.h5"
        run_alone(*arguments(inputs, outs[name], *by_sentences(sentences[0]), *delift_se(sentences[0])))
    return outs


def by_sentences(path):
    return ["--landmarks", 40, "--embedding", path]


@pytest.mark.parametrize("value", [0.0, np.nan])
@pytest.mark.parametrize("of_pool_alone", [False, True])
def test_a_labelled_sample_without_direction_is_quarantined(inputs, sentences, propagated, tmp_path, value, of_pool_alone):
    """Everything else is as if it had one: labels of others, and what is exact."""
    path, rows = sentences
    whole, out = propagated["pool" if of_pool_alone else "files"], tmp_path / "out.h5"
    arguments = of_pool if of_pool_alone else Inputs.arguments
    with OutputFile(whole) as file:
        place, lost = 7, int(file["/landmark/index"][7])
    name = inputs.pool[lost].id
    holes = write_embedding(tmp_path / "holes.h5", rows, (rows | {name: np.full(WIDTH, value)}).values())
    said = run(2, *arguments(inputs, out, *by_sentences(path), *delift_se(holes)))
    assert reasons_in(out) == reasons_in(whole) | {lost: "not finite"}
    assert "warning: 1 target samples left out" in said  # itself, or the one of the files that has no direction either
    with OutputFile(whole) as before, OutputFile(out) as after:
        np.testing.assert_array_equal(after["/landmark/index"], before["/landmark/index"])
        columns = [i for i, column in enumerate(before.texts("/column/name")) if column != name]
        assert after.texts("/column/name") == [before.texts("/column/name")[i] for i in columns]
        assert len(columns) == before["/influence"].shape[1] - of_pool_alone
        labels = before["/landmark/influence"][:, columns]
        labels[place] = np.nan
        np.testing.assert_array_equal(after["/landmark/influence"], labels)
        assert np.isnan(after["/influence"][lost]).all() and after["/weight"][lost] == 0 and lost not in after["/selected/index"]
        others = np.isfinite(before["/influence"]).all(1)
        others[lost] = False
        np.testing.assert_array_equal(np.isfinite(after["/influence"]).all(1), others)
        exact = before["/exact"] == 1
        exact[lost] = False
        np.testing.assert_array_equal(after["/influence"][exact], before["/influence"][exact][:, columns])


def by_tangents(path):
    return ["--landmarks", 40, "--embedding", "jvp", *delift_se(path)]


@pytest.fixture(scope="module")
def of_landmarks(inputs, sentences, tmp_path_factory):
    """For the landmarks, without interruption, by one rank."""
    out = tmp_path_factory.mktemp("landmarks") / "1.h5"
    run_alone(*of_pool(inputs, out, *by_tangents(sentences[0])))
    return out


def test_labelled_samples_are_the_targets_where_none_are_given(inputs, usable, sentences, of_landmarks, tmp_path):
    """Columns are the landmarks, in their order, and `--target pool` says the same."""
    path, rows = sentences
    outs = [tmp_path / f"{i}.h5" for i in range(3)]
    run(2, *of_pool(inputs, outs[0], *by_tangents(path), "--target", "pool"))
    run(5, *of_pool(inputs, outs[1], *by_tangents(path)))
    for out in outs[:2]:
        assert_same(out, of_landmarks)
    with OutputFile(outs[0]) as file:
        settings = json.loads(file.attributes["settings"])
        assert settings["target"] == ["pool"] and settings["influence"] == "delift-se"
        assert file.attributes["sentence_embedding_sha256"]
    with OutputFile(of_landmarks) as file:
        landmarks = file["/landmark/index"]
        ids = [inputs.pool[i].id for i in landmarks]
        assert file.texts("/column/name") == ids and file.texts("/task/name") == ["pool"]
        directions = unit([rows[i] for i in ids])
        np.testing.assert_allclose(file["/landmark/influence"], directions @ directions.T, atol=1e-6)
    run_alone(*of_pool(inputs, outs[2], "--propagation", "none", *delift_se(path)))
    every = unit([rows[s.id] for s, good in zip(inputs.pool, usable) if good])
    with OutputFile(outs[2]) as file:
        np.testing.assert_allclose(file["/influence"][usable], every @ every.T, atol=1e-6)


def test_gradients_of_labelled_samples(inputs, tmp_path):
    """Pairs of pool samples by gradients are what the same samples give as targets in a file."""
    from tiny import write_tokens

    out, other = tmp_path / "pool.h5", tmp_path / "file.h5"
    options = ["--landmarks", 30, "--embedding", "hidden", "--selection", "round-robin"]
    run(2, *of_pool(inputs, out, "--target", "pool", *options))
    with OutputFile(out) as file:
        landmarks = [inputs.pool[i] for i in file["/landmark/index"]]
        influence = file["/influence"]
    targets = write_tokens(tmp_path / "targets.h5", [s._replace(id=f"target {s.id}") for s in landmarks])
    run(1, *of_pool(inputs, other, "--target", f"pool={targets}", *options))
    with OutputFile(other) as file:
        np.testing.assert_array_equal(file["/influence"], influence)


def test_a_killed_run_continues(inputs, sentences, of_landmarks, tmp_path):
    out, options = tmp_path / "w.h5", by_tangents(sentences[0])
    with Job(2, *of_pool(inputs, out, *options)) as job:
        pids = at_unit(job, out, "pool", 1)
        os.kill(pids[1], signal.SIGKILL)
        assert job.wait(30) != 0
    run(3, *of_pool(inputs, out, *options))
    assert units_recovered(out) > 0
    assert_same(out, of_landmarks)


def test_bad_input_is_named(inputs, usable, sentences, tmp_path):
    path, rows = sentences
    out = tmp_path / "w.h5"
    none = run_alone(*of_pool(inputs, out, "--influence", "delift-se"), exit_code=2)
    assert "--sentence-embedding" in none and "jobs/embed.py" in none
    said = run_alone(*of_pool(inputs, out), exit_code=2)
    assert "--target" in said and "nothing" in said and "--target pool" in said
    one = inputs.pool[int(np.flatnonzero(usable)[5])].id
    others = [name for name in rows if name != one]
    short = write_embedding(tmp_path / "short.h5", others, [rows[name] for name in others])
    said = run_alone(*of_pool(inputs, out, *delift_se(short)), exit_code=3)
    assert not state_of(out).exists()
    assert "short.h5" in said and "/id" in said and f"1 missing: '{one}'" in said
    out = tmp_path / "zeros.h5"
    zero = write_embedding(tmp_path / "zero.h5", rows, [0 * row for row in rows.values()])
    said = run(2, *inputs.arguments(out, "--propagation", "none", *delift_se(zero)), exit_code=3)
    assert "zero.h5" in said and "target math" in said
    assert not out.exists()


def test_a_changed_row_is_another_run(inputs, usable, sentences, tmp_path):
    """Of a sample that no sampling of rows would find: the file is the labels."""
    path, rows = sentences
    assert len(rows) > 65
    digests = []
    for name, change in (("same", 0.0), ("other", 1e-3)):
        own = {sample: row.copy() for sample, row in rows.items()}
        own[inputs.pool[int(np.flatnonzero(usable)[1])].id][0] += change
        out = tmp_path / f"{name}.h5"
        file = write_embedding(tmp_path / f"{name}.in.h5", own, own.values())
        run(2, *inputs.arguments(out, "--propagation", "none", *delift_se(file)))
        with OutputFile(out) as file:
            digests.append(file.attributes["sentence_embedding_sha256"])
    assert digests[0] != digests[1]
    out = tmp_path / "again.h5"
    run(3, *inputs.arguments(out, "--propagation", "none", *delift_se(tmp_path / "same.in.h5")))
    with OutputFile(out) as file:
        assert file.attributes["sentence_embedding_sha256"] == digests[0]


def test_the_number_of_targets_is_not_left_open(inputs, sentences, tmp_path):
    said = run_alone(*of_pool(inputs, tmp_path / "w.h5", "--landmarks", "auto", "--embedding", "hidden", *delift_se(sentences[0])),
                     exit_code=2)  # fmt: skip
    assert "--landmarks" in said and "the labelled samples are the targets too" in said


def test_weights_of_an_influence_without_curvature(inputs, sentences, tmp_path):
    """Are of first order, and --learning-rate is not passed over in silence."""
    outs = [tmp_path / f"{i}.h5" for i in range(3)]
    words = ["--propagation", "none", "--selection", "weighted", *delift_se(sentences[0])]
    said = run(2, *inputs.arguments(outs[0], *words))
    assert "; of first order: this influence has no curvature\n" in said
    said = run(2, *inputs.arguments(outs[1], *words, "--learning-rate", 0.1))
    assert "this influence has no curvature, and --learning-rate decides nothing" in said
    run(2, *inputs.arguments(outs[2], *words, "--order", "first-order"))
    for out in outs[:2]:
        with OutputFile(out) as file, OutputFile(outs[2]) as first:
            np.testing.assert_array_equal(file["/weight"], first["/weight"])


def test_weights_that_nobody_looks_at_are_not_read(inputs, sentences, propagated, tmp_path):
    """Sentence embeddings alone: the weights may even be wrong."""
    path, _ = sentences
    broken = tmp_path / "model"
    broken.mkdir()
    for file in inputs.model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(weights.stat().st_size - 400)
        file.write(b"\xff" * 400)  # not numbers
    out = tmp_path / "w.h5"
    arguments = inputs.arguments(out, *by_sentences(path), *delift_se(path))
    said = run(2, "plan", *arguments)
    assert "/dev/shm" not in said
    run(2, "--model", broken, *arguments[2:])
    assert_same(out, propagated["files"])
    with OutputFile(out) as file:
        assert "model_sha256" not in file.attributes
