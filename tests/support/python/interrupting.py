"""Ending a run at a chosen moment, and looking at what it leaves."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import h5py
from idistill.output_file import OutputFile
from program import Job, Marks


def state_of(out: Path) -> Path:
    return out.with_name(out.name + ".state")


def left_over(out: Path) -> list[str]:
    """Files beside `out` that belong to it."""
    return sorted(p.name.removeprefix(out.name) for p in out.parent.glob(f"{out.name}.*"))


def at_unit(job: Job, out: Path, stage: str, count: int) -> dict[int, int]:
    """Waits until `count` units of the stage are done; returns the processes of the ranks."""
    pids = job.all_pids()
    job.until(state_of(out).exists, "a state file")
    marks = Marks(state_of(out))
    job.until(lambda: marks.done(stage) >= count, f"{count} units of {stage}")
    return pids


def interrupt(ranks: int, arguments, out: Path, stage: str, count: int, victim: int, kept: int = 0) -> int:
    """Kills one rank after `count` units of a stage; returns how many units of all stages were done when the job ended. A job
    that continues an interrupted one says first that it has `kept` units of it."""
    with Job(ranks, *arguments) as job:
        pids = at_unit(job, out, stage, count)
        if kept:
            job.until(lambda: continuing(kept) in job.said(), continuing(kept))
        os.kill(pids[victim], signal.SIGKILL)
        assert job.wait(30) != 0
    assert not out.exists()
    done = units_done(out)
    assert done >= max(count, kept)
    return done


def continuing(kept: int) -> str:
    """What a run says that keeps units of an earlier one."""
    return f"continuing: {kept} units of an earlier run are kept"


def units_done(out: Path) -> int:
    with h5py.File(state_of(out), "r") as file:
        return sum(int(file[stage]["done"][()].sum()) for stage in file if isinstance(file[stage], h5py.Group))


def units_recovered(out: Path) -> int:
    with OutputFile(out) as file:
        return int(file.attributes["units_recovered"])


@contextmanager
def standing_still(job: Job, pids: dict[int, int]):
    """The whole job, mpirun too, is stopped within the `with` block and goes on after it."""
    everyone = [job.process.pid, *pids.values()]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in everyone:
        os.kill(pid, signal.SIGCONT)
