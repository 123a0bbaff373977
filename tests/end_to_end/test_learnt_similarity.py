"""Facility location by the influence that a network learnt between samples of the pool, against numpy on what the state keeps."""

import os
import signal

import h5py
import numpy as np
import pytest
from idistill.output_file import OutputFile
from interrupting import at_unit, state_of, units_recovered
from made_files import write_embedding
from program import Job, Marks, assert_same, run
from test_delift_se import delift_se, has_labels, of_pool

WIDTH, HIDDEN, LABELLED, PICKS = 12, 20, 60, 25


@pytest.fixture(scope="module")
def sentences(inputs, tmp_path_factory):
    random = np.random.default_rng(21)
    centre = {source: random.normal(size=WIDTH) for source in sorted({s.source for s in inputs.pool})}
    rows = {s.id: centre[s.source] + random.normal(size=WIDTH) for s in inputs.pool}
    return write_embedding(tmp_path_factory.mktemp("learnt") / "pool.h5", rows, rows.values())


def options(sentences):
    return [*delift_se(sentences), "--propagation", "network", "--embedding", sentences, "--landmarks", LABELLED,
            "--network-width", HIDDEN, "--selection", "facility-location", "--select", PICKS]  # fmt: skip


@pytest.fixture(scope="module")
def killed(inputs, sentences, tmp_path_factory):
    """A run that was killed when all of the pool was predicted, what its state kept, and the result of the same command."""
    out = tmp_path_factory.mktemp("killed") / "w.h5"
    with Job(2, *of_pool(inputs, out, *options(sentences))) as job:
        pids = at_unit(job, out, "pool", 1)
        marks = Marks(state_of(out))
        job.until(lambda: marks.done("pool") == marks.units("pool"), "all of the pool")
        os.kill(pids[1], signal.SIGKILL)
        job.wait(30)
    with h5py.File(state_of(out)) as file:
        kept = file["pool/factor"][:], file["pool/influence"][:]
    run(1, *of_pool(inputs, out, *options(sentences)))
    return out, *kept


def test_a_killed_run_continues_and_ranks_do_not_matter(inputs, sentences, killed, tmp_path):
    out, *_ = killed
    assert units_recovered(out) > 0
    for ranks in (1, 3, 5):
        other = tmp_path / f"{ranks}.h5"
        run(ranks, *of_pool(inputs, other, *options(sentences)))
        assert_same(out, other)


def test_picks_are_those_of_greedy_on_what_was_learnt(inputs, killed):
    """The network's output layer follows from the predicted influences and the halves; all pairs follow from it."""
    out, factor, influence = killed
    left, right = factor[:, :HIDDEN].astype(float), factor[:, HIDDEN:].astype(float)
    usable = np.array([has_labels(s) for s in inputs.pool])
    with OutputFile(out) as file:
        landmarks, labels = file["/landmark/index"], file["/landmark/influence"]
        picked, objective = file["/selected/index"], file.attributes["selection_objective"]
    assert np.isfinite(factor[usable]).all() and np.isnan(factor[~usable]).all()
    predicted = np.setdiff1d(np.flatnonzero(usable), landmarks)

    def hidden(candidates, represented):
        return np.maximum(left[candidates][:, None] + right[represented][None], 0)

    units = hidden(predicted, landmarks).reshape(-1, HIDDEN)
    system = np.hstack([units, np.ones((len(units), 1))])
    truth = influence[predicted][:, : len(landmarks)].astype(float).ravel()
    output, *_ = np.linalg.lstsq(system, truth, rcond=None)
    np.testing.assert_allclose(system @ output, truth, atol=1e-5)

    rows = np.flatnonzero(usable)
    similarity = hidden(rows, rows) @ output[:-1] + output[-1] - labels.min()  # (candidates x represented)
    covered, chosen = np.zeros(len(rows)), []
    for pick in picked:
        gains = np.maximum(similarity - covered, 0).sum(1)
        gains[chosen] = -1
        own = int(np.flatnonzero(rows == pick)[0])
        assert gains[own] >= gains.max() * (1 - 1e-4)  # rounding may order what is as good as equal
        chosen.append(own)
        covered = np.maximum(covered, similarity[own])
    np.testing.assert_allclose(objective, covered.sum(), rtol=1e-4)


def test_a_network_that_cannot_be_taken_apart_is_refused(inputs, sentences, tmp_path):
    said = run(1, *of_pool(inputs, tmp_path / "w.h5", *options(sentences), "--network-depth", 2, "--similarity", "network"), exit_code=2)
    assert "--similarity" in said and "network" in said
