"""SIGKILL while delift-se labels landmarks, and while a facility location is selected: the run continues with the same bits."""

import os
import signal
import time

import h5py
import numpy as np
import pytest
from interrupting import at_unit, continuing, interrupt, left_over, state_of, units_done, units_recovered
from program import Job, Marks, assert_same, run

WIDTH = 4096  # so that the selection takes a while


@pytest.fixture(scope="module")
def sentences(inputs, tmp_path_factory):
    """Of pool and targets. All cosines are positive: every pair counts."""
    random = np.random.default_rng(4)
    ids = [s.id for s in [*inputs.pool, *(s for own in inputs.targets.values() for s in own)]]
    path = tmp_path_factory.mktemp("sentences") / "all.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "idistill-embedding", "version": 1, "made_by": "a test"})
        file["embedding"] = (1 + random.normal(size=(len(ids), WIDTH))).astype(np.float32)
        file["id"] = [name.encode() for name in ids]
    return path


@pytest.fixture(scope="module")
def arguments(inputs, sentences):
    """Nothing of the similarities is kept in memory."""
    return lambda out: inputs.arguments(
        out, "--influence", "delift-se", "--sentence-embedding", sentences, "--landmarks", 80, "--embedding", "hidden",
        "--unit-flops", 1, "--selection", "facility-location", "--similarity", sentences, "--select", "60%", "--memory", 0)  # fmt: skip


@pytest.fixture(scope="module")
def reference(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "weights.h5"
    run(2, *arguments(out))
    return out


def test_killed_while_landmarks_are_labelled(arguments, reference, tmp_path):
    out = tmp_path / "weights.h5"
    done = interrupt(2, arguments(out), out, "landmarks", 25, 1)
    done = interrupt(3, arguments(out), out, "landmarks", 60, 0, kept=done)
    assert continuing(done) in run(1, *arguments(out)) and units_recovered(out) == done
    assert_same(out, reference)
    assert left_over(out) == []


def test_killed_while_it_selects(arguments, reference, tmp_path):
    """One rank, then the other in the run that continues."""
    out = tmp_path / "weights.h5"
    for victim in (0, 1):
        with Job(2, *arguments(out)) as job:
            pids = at_unit(job, out, "pool", 1)
            job.until(lambda: "leave-one-out trust" in job.said(), "what is said before the pool's units")
            marks = Marks(state_of(out))
            job.until(lambda: marks.done("pool") == marks.units("pool"), "all of the pool")
            time.sleep(0.1)
            os.kill(pids[victim], signal.SIGKILL)
            assert job.wait(30) != 0
            assert "facility location: objective" not in job.said()  # which is said of a finished selection
        assert set(left_over(out)) <= {".lock", ".state"}
    done = units_done(out)
    assert continuing(done) in run(3, *arguments(out)) and units_recovered(out) == done
    assert_same(out, reference)
