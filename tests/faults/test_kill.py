"""SIGKILL of one rank in every stage; the same command then gives the same bits as a run that was left alone."""

import ctypes
import os
import signal
import time

import numpy as np
import pytest
from interrupting import interrupt, left_over, state_of, units_recovered
from program import Job, Marks, assert_same, run
from tiny import Inputs

UNITS = {"targets": 90, "landmarks": 80, "pool": 300, "directions": 10, "refine": 120, "curvature": 12,
         "target_embeddings": 90, "network": 4, "sample_network": 4}  # at least so many


@pytest.mark.parametrize("name,stage,victim,ranks,ranks_after", [
    ("kernel-ridge", "targets", 1, 2, 3),
    ("kernel-ridge", "targets", 0, 2, 1),
    ("kernel-ridge", "landmarks", 2, 3, 2),
    ("kernel-ridge", "landmarks", 0, 3, 3),
    ("kernel-ridge", "pool", 0, 2, 2),
    ("kernel-ridge", "pool", 1, 3, 1),
    ("auto", "landmarks", 1, 2, 3),
    ("auto", "pool", 0, 2, 1),
    ("refine", "pool", 0, 2, 3),
    ("refine", "refine", 1, 2, 3),
    ("refine", "refine", 0, 3, 1),
    ("network", "target_embeddings", 1, 2, 3),
    ("network", "network", 0, 2, 3),
    ("network", "network", 1, 3, 1),
    ("network", "sample_network", 0, 2, 2),
    ("exact-tasks", "directions", 1, 2, 2),
    ("hessian", "curvature", 1, 2, 3),
    ("hessian", "curvature", 0, 3, 1),
    ("exact-tasks", "pool", 0, 2, 3),
    ("delift", "targets", 1, 2, 3),
    ("delift", "pool", 0, 3, 2),
])
def test_killed_among_the_units(command, references, tmp_path, name, stage, victim, ranks, ranks_after):
    out = tmp_path / "weights.h5"
    random = np.random.default_rng([*stage.encode(), victim, ranks])
    moment = int(random.integers(1, UNITS[stage] * 3 // 4))
    done = interrupt(ranks, command(name, out), out, stage, moment, victim)
    assert done >= moment
    assert set(left_over(out)) <= {".lock", ".state"}
    said = run(ranks_after, *command(name, out))
    assert f"continuing: {done} units of an earlier run are kept" in said
    assert units_recovered(out) == done
    assert_same(out, references[name])
    assert left_over(out) == []


def test_killed_twice(command, references, tmp_path):
    out = tmp_path / "weights.h5"
    first = interrupt(2, command("kernel-ridge", out), out, "landmarks", 20, 1)
    second = interrupt(3, command("kernel-ridge", out), out, "pool", 100, 0)
    assert second >= first + 100
    run(2, *command("kernel-ridge", out))
    assert units_recovered(out) == second
    assert_same(out, references["kernel-ridge"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_open_mpi_left_taken_stops_no_run(command, references, tmp_path, ranks):
    """Its guard of a file is a semaphore named after the file without its folder; a rank killed at the wrong moment, or another
    user, leaves it taken."""
    out = tmp_path / f"guarded-by-{os.getpid()}-{ranks}.h5"
    names = [f"/OMPIO_{out.name}{suffix}".encode() for suffix in ("", ".state", ".state.new", ".partial")]
    library = ctypes.CDLL(None, use_errno=True)
    library.sem_open.restype = ctypes.c_void_p
    try:
        for name in names:
            assert library.sem_open(name, os.O_CREAT | os.O_EXCL, 0o644, 0), os.strerror(ctypes.get_errno())
        run(ranks, *command("kernel-ridge", out))
    finally:
        for name in names:
            library.sem_unlink(name)
    assert_same(out, references["kernel-ridge"])
    assert left_over(out) == []


def test_killed_while_landmarks_are_added(tmp_path):
    """Among those of the second doubling: the first ones are kept, and the run stops growing where it would have."""
    inputs = Inputs(tmp_path, 700, 20)
    arguments = ["--landmarks", "auto:600", "--columns", "tasks", "--unit-flops", "1"]
    run(2, *inputs.arguments(tmp_path / "reference.h5", *arguments))
    out = tmp_path / "weights.h5"
    done = interrupt(3, inputs.arguments(out, *arguments), out, "landmarks", 300, 1)
    said = run(2, *inputs.arguments(out, *arguments))
    assert f"continuing: {done} units of an earlier run are kept" in said and "256 landmarks: " in said
    assert units_recovered(out) == done
    assert_same(out, tmp_path / "reference.h5")


def killed_when(reached, command, out, victim, delay=0.0):
    """Ends a run of two ranks as soon as reached() and `delay` seconds more."""
    with Job(2, *command("kernel-ridge", out)) as job:
        pids = job.all_pids()
        job.until(lambda: reached(job), "the moment")
        time.sleep(delay)
        os.kill(pids[victim], signal.SIGKILL)
        job.wait(30)


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_before_the_first_unit(command, references, tmp_path, victim):
    out = tmp_path / "weights.h5"
    killed_when(lambda job: (tmp_path / "weights.h5.lock").exists(), command, out, victim)
    assert not out.exists()
    run(2, *command("kernel-ridge", out))
    assert_same(out, references["kernel-ridge"])
    assert left_over(out) == []


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_while_rank_0_solves(command, references, tmp_path, victim):
    out = tmp_path / "weights.h5"

    def all_landmarks(job):
        job.until(state_of(out).exists, "a state file")
        marks = Marks(state_of(out))
        return job.until(lambda: marks.done("landmarks") == marks.units("landmarks"), "all landmarks")

    killed_when(all_landmarks, command, out, victim)
    run(3, *command("kernel-ridge", out))
    assert units_recovered(out) >= UNITS["targets"] + UNITS["landmarks"]
    assert_same(out, references["kernel-ridge"])


@pytest.mark.parametrize("victim,delay", [(0, 0), (1, 0), (0, 0.01), (1, 0.02)])
def test_killed_while_writing(command, references, tmp_path, victim, delay):
    out = tmp_path / "weights.h5"
    partial = tmp_path / "weights.h5.partial"
    killed_when(lambda job: partial.exists(), command, out, victim, delay)
    if not out.exists():  # a kill after the rename leaves a finished result, which must be whole as well
        assert partial.exists() or delay > 0
        run(3, *command("kernel-ridge", out))
        assert units_recovered(out) >= sum(UNITS[stage] for stage in ("targets", "landmarks", "pool"))
        assert left_over(out) == []
    else:
        assert delay > 0
    assert_same(out, references["kernel-ridge"])


def test_killed_after_the_result_has_its_name(command, references, tmp_path):
    out = tmp_path / "weights.h5"
    killed_when(lambda job: out.exists(), command, out, 0)
    assert_same(out, references["kernel-ridge"])
    run(2, *command("kernel-ridge", out), exit_code=4)
    run(2, *command("kernel-ridge", out, "--overwrite"))
    assert_same(out, references["kernel-ridge"])
    assert left_over(out) == []
