"""SIGKILL of one rank in every stage; the same command then gives the same bits as a run that was left alone."""

import ctypes
import os
import signal
import time

import pytest
from interrupting import continuing, interrupt, left_over, state_of, units_done, units_recovered
from program import Job, Marks, assert_same, run, run_alone
from tiny import Inputs

UNITS = {"targets": 90, "landmarks": 80, "pool": 300}  # of the command "kernel-ridge", at least so many


@pytest.mark.parametrize("name,kills,ranks_after", [
    ("kernel-ridge", [("targets", 41, 1, 2), ("landmarks", 17, 0, 3), ("pool", 133, 1, 3)], 1),
    ("kernel-ridge", [("targets", 3, 0, 2), ("landmarks", 52, 2, 3), ("pool", 29, 0, 2)], 3),
    ("auto", [("landmarks", 36, 1, 2), ("pool", 87, 0, 2)], 1),
    ("refine", [("pool", 60, 0, 2), ("refine", 11, 1, 2), ("refine", 75, 0, 3)], 1),
    ("network", [("target_embeddings", 34, 1, 2), ("network", 1, 0, 2), ("network", 3, 1, 3), ("sample_network", 2, 0, 2)], 3),
    ("exact-tasks", [("directions", 5, 1, 2), ("pool", 190, 0, 2)], 3),
    ("hessian", [("curvature", 1, 1, 2), ("curvature", 4, 0, 3)], 1),
    ("delift", [("targets", 57, 1, 2), ("pool", 20, 0, 3)], 2),
], ids=lambda value: "-".join(stage for stage, *_ in value) if isinstance(value, list) else None)
def test_killed_among_the_units(command, reference, tmp_path, name, kills, ranks_after):
    """Again and again, each time in a run that continues the one before; of a kill: the stage, after so many of its units, the
    victim, of so many ranks."""
    out = tmp_path / "weights.h5"
    done = 0
    for stage, moment, victim, ranks in kills:
        done = interrupt(ranks, command(name, out), out, stage, moment, victim, kept=done)
        assert set(left_over(out)) <= {".lock", ".state"}
    said = run(ranks_after, *command(name, out))
    assert continuing(done) in said
    assert units_recovered(out) == done
    assert_same(out, reference(name))
    assert left_over(out) == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_open_mpi_left_taken_stops_no_run(command, reference, tmp_path, ranks):
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
    assert_same(out, reference("kernel-ridge"))
    assert left_over(out) == []


def test_killed_while_landmarks_are_added(tmp_path):
    """Among those of the second doubling: the first ones are kept, and the run stops growing where it would have."""
    inputs = Inputs(tmp_path, 700, 20)
    arguments = ["--landmarks", "auto:600", "--columns", "tasks", "--unit-flops", "1"]
    run(2, *inputs.arguments(tmp_path / "reference.h5", *arguments))
    out = tmp_path / "weights.h5"
    done = interrupt(3, inputs.arguments(out, *arguments), out, "landmarks", 300, 1)
    said = run(2, *inputs.arguments(out, *arguments))
    assert continuing(done) in said and "256 landmarks: " in said
    assert units_recovered(out) == done
    assert_same(out, tmp_path / "reference.h5")


def killed_when(reached, command, out, victim, delay=0.0):
    """Kills a rank of two `delay` seconds after reached(); returns what the run said."""
    with Job(2, *command("kernel-ridge", out)) as job:
        pids = job.all_pids()
        reached(job, out)
        time.sleep(delay)
        os.kill(pids[victim], signal.SIGKILL)
        job.wait(30)
        return job.said()


def begins(job, out):
    job.until(out.with_name(out.name + ".lock").exists, "a lock")


def solves(job, out):
    """Rank 0, once all landmarks are there."""
    job.until(state_of(out).exists, "a state file")
    marks = Marks(state_of(out))
    job.until(lambda: marks.done("landmarks") == marks.units("landmarks"), "all landmarks")


def writes(job, out):
    job.until(out.with_name(out.name + ".partial").exists, "a file being written")


@pytest.mark.parametrize("victims", [(0, 1, 0), (1, 0, 1)])
def test_killed_between_the_units(command, reference, tmp_path, victims):
    """Before the first one, then in a run that continues while rank 0 solves, then while the result is written."""
    out = tmp_path / "weights.h5"
    killed_when(begins, command, out, victims[0])
    assert not out.exists()
    killed_when(solves, command, out, victims[1])
    done = units_done(out)
    assert done >= UNITS["targets"] + UNITS["landmarks"] and not out.exists()
    assert continuing(done) in killed_when(writes, command, out, victims[2])
    assert ".partial" in left_over(out) and not out.exists()
    run(3, *command("kernel-ridge", out))
    assert units_recovered(out) >= sum(UNITS.values())
    assert_same(out, reference("kernel-ridge"))
    assert left_over(out) == []


@pytest.mark.parametrize("victim,delay", [(0, 0.01), (1, 0.02)])
def test_killed_while_writing(command, reference, tmp_path, victim, delay):
    out = tmp_path / "weights.h5"
    killed_when(writes, command, out, victim, delay)
    if not out.exists():  # a kill after the rename leaves a finished result, which must be whole as well
        run(3, *command("kernel-ridge", out))
        assert units_recovered(out) >= sum(UNITS.values())
        assert left_over(out) == []
    assert_same(out, reference("kernel-ridge"))


def test_killed_after_the_result_has_its_name(command, reference, tmp_path):
    out = tmp_path / "weights.h5"
    killed_when(lambda job, out: job.until(out.exists, "a result"), command, out, 0)
    assert_same(out, reference("kernel-ridge"))
    run_alone(*command("kernel-ridge", out), exit_code=4)
    run(2, *command("kernel-ridge", out, "--overwrite"))
    assert_same(out, reference("kernel-ridge"))
    assert left_over(out) == []
