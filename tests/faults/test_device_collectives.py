"""Ranks with GPUs, where fake_nccl.cpp stands for NCCL: whatever fails there ends the job within the stall timeout, with the cause
named, and leaves no process and no memory behind."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import program
import pytest
from program import ENVIRONMENT, Job

FAKE = {"LD_PRELOAD": os.environ["IDISTILL_FAKE_NCCL"]}
# Seconds. A rank that gets no core for 3/8 of the first is taken for one that is silent.
STALL_TIMEOUT = 4
NOT_WAITED_FOR = 600  # the stall timeout of jobs that end by themselves
SOON = 60  # far from both


@pytest.fixture(autouse=True)
def device_job(monkeypatch):
    monkeypatch.setattr(program, "PROGRAM", os.environ["IDISTILL_DEVICE_JOB"])


def alive() -> list[str]:
    """Processes of such jobs; those that have ended, and that nobody has asked for yet, have no command."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [command.parent.name] if os.fsencode(program.PROGRAM) in command.read_bytes().split(b"\0") else []
    return found


@pytest.fixture(autouse=True)
def nothing_left(device_job):
    yield
    end = time.monotonic() + SOON
    while alive():
        assert time.monotonic() < end, alive()
        time.sleep(0.05)
    memory = [path.name for path in Path("/dev/shm").glob("fake_nccl_*")]  # by the process that made it
    assert not [name for name in memory if not Path("/proc", name.split("_")[2]).exists()]


def ended(ranks: int, fault: str, exit_code: int, stall_timeout: int) -> str:
    """What the job said that a fault has ended in time."""
    with Job(ranks, stall_timeout, 3, environment={**FAKE, "FAKE_NCCL_FAULT": fault}) as job:
        assert job.wait(SOON) == exit_code, job.said()
        return job.said()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_job_without_faults(ranks):
    with Job(ranks, STALL_TIMEOUT, 10, environment=FAKE) as job:
        assert job.wait(60) == 0, job.said()
        assert f"NCCL 2.28.9, {ranks} ranks" in job.said()


def test_a_call_that_fails():
    said = ended(3, "1:ncclAllReduce:6:code=3", 1, NOT_WAITED_FOR)
    assert re.search(r"idistill_mpi: rank 1 \(.+\): all_reduce between GPUs #\d+: ncclAllReduce: found NCCL 2\.28\.9 error 3 "
                     r"\(internal error\); NCCL's last words: injected failure of a call\. NCCL_DEBUG=WARN lets", said), said
    assert said.count("idistill_mpi: ") == 1, said


def test_an_error_that_comes_later():
    said = ended(2, "1:ncclBroadcast:5:async=6", 75, NOT_WAITED_FOR)
    assert re.search(r"idistill_mpi: rank 1 \(.+\): broadcast between GPUs #\d+: ncclCommGetAsyncError: found "
                     r"NCCL 2\.28\.9 error 6 \(remote error\); .*the same command continues the run", said), said


@pytest.mark.parametrize(
    "operation, call",
    [
        ("connection of the GPUs", "ncclCommInitRankConfig"),
        ("all_reduce between GPUs", "ncclAllReduce"),
        ("release of the GPUs", "ncclCommFinalize"),
    ],
)
def test_a_rank_whose_data_never_arrives(operation, call):
    said = ended(2, f"1:{call}:1:lost", 75, STALL_TIMEOUT)
    assert re.search(rf"idistill_mpi: rank \d \(.+\): {operation} #\d+: expected every rank within {STALL_TIMEOUT} s, found that all ranks "
                     r"have arrived, but their data does not", said), said


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_call_that_does_not_come_back(ranks):
    said = ended(ranks, f"{ranks - 1}:ncclAllReduce:2:blocks", 75, STALL_TIMEOUT)
    assert re.search(rf"idistill_mpi: rank \d \(.+\): all_reduce between GPUs #\d+.*: expected every rank within {STALL_TIMEOUT} s, found",
                     said), said


def test_an_abort_that_does_not_come_back():
    """A call fails, and NCCL cannot even be stopped: the cause is said all the same."""
    said = ended(1, "0:ncclAllReduce:1:code=3,0:ncclCommAbort:1:blocks", 1, NOT_WAITED_FOR)
    assert re.search(r"idistill_mpi: rank 0 \(.+\): all_reduce between GPUs #\d+: ncclAllReduce: found NCCL", said), said


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_stands_still(victim):
    with Job(2, STALL_TIMEOUT, 10**9, environment=FAKE) as job:
        job.until(lambda: "2 ranks" in job.said(), "connected ranks")
        os.kill(job.pids()[victim], signal.SIGSTOP)
        assert job.wait(SOON) == 75, job.said()
        named = re.findall(r"idistill_mpi: rank \d \(.+\): .*between GPUs #.*found .*?rank (\d) \(.+?\).*", job.said())
        assert named and set(named) == {str(victim)}, job.said()


def test_a_process_without_nccl():
    done = subprocess.run([program.PROGRAM, "2", "1"], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert done.returncode == 2
    assert re.search(r"several ranks with GPUs: expected a LibTorch that has brought NCCL .*, found no ncclGetVersion\. "
                     r"Use a build of LibTorch with CUDA and NCCL", done.stderr), done.stderr
