"""Starting idistill_mpi under mpirun, and what its result files hold."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from idistill.output_file import OutputFile

PROGRAM = os.environ["IDISTILL_PROGRAM"]
MPIRUN = os.environ["IDISTILL_MPIRUN"]
# Attributes that say how a result came about, not what it is.
CIRCUMSTANCES = ("ranks", "units_recovered", "settings", "seconds_")
# A rank that waits gives its core to one that works; the tests have more ranks than cores.
ENVIRONMENT = {
    **os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_hwloc_base_binding_policy": "none", "OMP_NUM_THREADS": "1",
}


def command(ranks: int, arguments) -> list[str]:
    return [MPIRUN, "--oversubscribe", "-n", str(ranks), PROGRAM, *map(str, arguments)]


def run_each(*commands, exit_code: int = 0, timeout: float = 120) -> str:
    """As run(), of one rank for each (folder, arguments)."""
    parts = [[":", "-n", "1", "--wdir", str(folder), PROGRAM, *map(str, arguments)] for folder, arguments in commands]
    return _said([MPIRUN, "--oversubscribe", *sum(parts, [])[1:]], exit_code, timeout)


def run_alone(*arguments, exit_code: int = 0, timeout: float = 120) -> str:
    """As run(), of one process, started as it is: mpirun takes seconds to end a job that fails."""
    return _said([PROGRAM, *map(str, arguments)], exit_code, timeout)


def run(ranks: int, *arguments, exit_code: int = 0, timeout: float = 120) -> str:
    """What the program said, after a check of its exit code."""
    return _said(command(ranks, arguments), exit_code, timeout)


def _said(line: list[str], exit_code: int, timeout: float) -> str:
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT)
    said = done.stdout + done.stderr
    assert done.returncode == exit_code, f"exit code {done.returncode} instead of {exit_code}:\n{said}"
    return said


class Job:
    """A run in the background. Leaving the `with` block ends what is left of it."""

    def __init__(self, ranks: int, *arguments, environment: dict[str, str] | None = None):
        self.ranks = ranks
        self._said = tempfile.TemporaryFile("a+")  # appending: reading it does not move the writers
        self.process = subprocess.Popen(
            command(ranks, arguments), stdout=self._said, stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, **(environment or {})}, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            for pid in [*self.pids().values(), self.process.pid]:
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._said.close()

    def pids(self) -> dict[int, int]:
        """{rank: process id} of the ranks that live."""
        found = {}
        for child in _children(self.process.pid):
            try:
                environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            rank = [entry for entry in environment if entry.startswith(b"OMPI_COMM_WORLD_RANK=")]
            if rank:
                found[int(rank[0].partition(b"=")[2])] = child
        return found

    def all_pids(self) -> dict[int, int]:
        """The same, once all ranks live."""
        self.until(lambda: len(self.pids()) == self.ranks, "all ranks")
        return self.pids()

    def until(self, reached, what: str, timeout: float = 60):
        """Waits for `reached()`; a job that ends first or takes too long fails the test."""
        end = time.monotonic() + timeout
        while not (value := reached()):
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.said()}"
            assert time.monotonic() < end, f"no {what} within {timeout} s:\n{self.said()}"
            time.sleep(0.0005)
        return value

    def wait(self, timeout: float) -> int:
        return self.process.wait(timeout)

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read()


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*") for child in (task / "children").read_text().split()]


class Marks:
    """The done marks of a state file while a run writes it, read past the HDF5 library: by their place in the file."""

    def __init__(self, state: Path):
        self._place = {}
        with h5py.File(state, "r", locking=False) as file:
            for stage in file:
                if isinstance(file[stage], h5py.Group) and len(file[stage]["done"]):
                    done = file[stage]["done"]
                    self._place[stage] = (done.id.get_offset(), len(done))
        self._file = open(state, "rb", buffering=0)

    def done(self, stage: str) -> int:
        offset, count = self._place[stage]
        return os.pread(self._file.fileno(), count, offset).count(1)

    def units(self, stage: str) -> int:
        return self._place[stage][1]


def datasets(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Everything in a file that the program wrote: {name: (type, shape, bytes)}."""
    with OutputFile(path) as file:
        values = {name: file[name] for name in file.names()}
    return {name: (str(own.dtype), own.shape, own.tobytes()) for name, own in values.items()}


def attributes(path: Path) -> dict:
    """Those that say what a file of the program is."""
    with OutputFile(path) as file:
        return {name: value for name, value in file.attributes.items() if not name.startswith(CIRCUMSTANCES)}


def assert_same(found: Path, expected: Path):
    """Bit for bit, in every dataset."""
    a, b = datasets(found), datasets(expected)
    assert a.keys() == b.keys()
    differing = [name for name in a if a[name] != b[name]]
    assert not differing, f"{found} and {expected} differ in {differing}"
    x, y = attributes(found), attributes(expected)
    assert x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x), (x, y)


def text(values) -> list[str]:
    return [value.decode() for value in values]
