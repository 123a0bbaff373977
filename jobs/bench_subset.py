#!/usr/bin/env python3
"""Subset selection on made-up embeddings: time and memory of idistill_mpi beside submodlib-py and apricot-select where they are
installed, and the share of exact greedy's objective that the others reach (of at most 30,000 samples, with exact among them). Of
the two, tests/requirements.txt has submodlib-py; apricot-select must be installed by hand: pip install apricot-select.

    jobs/bench_subset.py                                       # 20,000 samples, 384 dimensions, 10 %
    jobs/bench_subset.py --rows 1000000 --ranks 2 --only sparse
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

PROGRAM = Path(__file__).parents[1] / "build" / "idistill_mpi"
FORMS = ("exact", "stochastic", "sparse")
THEIRS = ("submodlib", "apricot")
COMPARED = 30_000  # samples that all pairs are compared of here


def embeddings(rows: int, width: int, seed: int = 43) -> np.ndarray:
    """Topics of very different size, as a pool of instructions has them: cosines of about 0.5 within a topic."""
    random = np.random.default_rng(seed)
    topics = max(1, rows // 100)
    share = 1 / np.arange(1, topics + 1) ** 0.7
    topic = random.choice(topics, size=rows, p=share / share.sum())
    centres = random.normal(size=(topics, width)).astype(np.float32)
    made = np.empty((rows, width), np.float32)
    for first in range(0, rows, 65536):
        part = topic[first:first + 65536]
        made[first:first + 65536] = centres[part] + random.normal(size=(len(part), width)).astype(np.float32)
    return made


def write_inputs(folder: Path, made: np.ndarray) -> tuple[Path, Path]:
    """A result without influence that would tell samples apart, and the embedding file."""
    rows = len(made)
    ids = np.char.add("s", np.arange(rows).astype(str)).astype(bytes)
    ids = ids.astype(h5py.string_dtype("utf-8", ids.dtype.itemsize))
    result, embedding = folder / "result.h5", folder / "embedding.h5"
    with h5py.File(result, "w") as file:
        file.attrs.update({"format": "idistill-weights", "version": 1, "settings": "{}"})
        file["influence"] = np.zeros((rows, 1), np.float32)
        file["id"], file["tokens"] = ids, np.ones(rows, np.int32)
        file["source/name"], file["source/index"] = ["made up"], np.zeros(rows, np.int32)
        file["task/name"], file["column/task"] = ["none"], np.zeros(1, np.int32)
        file["quarantine/index"] = np.zeros(0, np.int64)
    with h5py.File(embedding, "w") as file:
        file.attrs.update({"format": "idistill-embedding", "version": 1, "made_by": "bench_subset.py"})
        file["embedding"], file["id"] = made, ids
    return result, embedding


class Measured(NamedTuple):
    seconds: float
    processor_seconds: float  # of all its processes
    gigabytes: float
    rows: list[int]


def waited(command: list[str]) -> tuple[Measured, str]:
    """Memory is that of its largest process. With what it said."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        said.seek(0)
        text = said.read()
    if status:
        raise RuntimeError(text[-400:])
    return Measured(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024e-9, []), text


def ours(form: str, ranks: int, folder: Path, inputs, percent: float, memory: float) -> Measured:
    """Memory of all ranks together: a shell beside each notes its own. Time is of the whole job, files and all."""
    out = folder / f"{form}.h5"
    memory_of = f"{folder}/memory.{form}."
    inner = ('"$0" "$@" & pid=$!; while kill -0 $pid 2>/dev/null; do grep VmHWM /proc/$pid/status 2>/dev/null; sleep 0.2; done '
             f'>{memory_of}$OMPI_COMM_WORLD_RANK; wait $pid')
    command = ["mpirun", "--allow-run-as-root", "-n", str(ranks), "bash", "-c", inner, str(PROGRAM), "select"]
    command += ["--result", str(inputs[0]), "--out", str(out), "--overwrite", "--selection", "facility-location", "--similarity"]
    command += [str(inputs[1]), "--greedy", form, "--select", f"{percent}%"]
    command += ["--memory", str(memory)] if form != "sparse" else []
    measured, text = waited(command)
    print(*re.findall(r"facility location: .*", text), sep="\n", file=sys.stderr)
    peak = sum(int(Path(f"{memory_of}{rank}").read_text().split()[-2]) for rank in range(ranks)) * 1024e-9
    with h5py.File(out) as file:
        return measured._replace(gigabytes=peak, rows=file["selected/index"][:].tolist())


def now() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def theirs(name: str, embedding: Path, count: int) -> Measured:
    measured, text = waited([sys.executable, __file__, "--one", name, "--embedding", str(embedding), "--count", str(count)])
    done = json.loads(text.splitlines()[-1])
    return measured._replace(**done)


def run_theirs(name: str, embedding: Path, count: int) -> None:
    """In a process of its own; what it takes to import and to read the file does not count."""
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())[1]
    limit = int(0.75 * 1024 * int(available))  # an error there, not the end of something else
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with h5py.File(embedding) as file:
        rows = file["embedding"][:]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if name == "submodlib":
        from submodlib.functions.facilityLocation import FacilityLocationFunction

        start = now()
        function = FacilityLocationFunction(n=len(rows), mode="dense", sijs=np.maximum(rows @ rows.T, 0), separate_rep=False)
        picked = [row for row, _ in function.maximize(budget=count, optimizer="LazyGreedy", show_progress=False)]
    else:
        np.int, np.float = int, float  # names that it uses and numpy no longer has
        from apricot import FacilityLocationSelection

        FacilityLocationSelection(2, metric="precomputed").fit(np.eye(4))  # compiled before it is timed
        start = now()
        picked = FacilityLocationSelection(count, metric="precomputed", optimizer="lazy").fit(np.maximum(rows @ rows.T, 0)).ranking
    seconds, processor_seconds = (after - before for after, before in zip(now(), start))
    print(json.dumps({"seconds": seconds, "processor_seconds": processor_seconds, "rows": [int(row) for row in picked]}))


def value(unit: np.ndarray, picked: list[int]) -> float:
    return float(np.maximum(unit @ unit[picked].T, 0).max(1).sum(dtype=float))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--percent", type=float, default=10)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--memory", type=float, default=1, help="--memory of idistill_mpi, GB a rank")
    parser.add_argument("--only", nargs="*", default=[*FORMS, *THEIRS], help="some of " + ", ".join([*FORMS, *THEIRS]))
    parser.add_argument("--folder", help="where the inputs are written, a temporary folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--embedding", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return run_theirs(given.one, given.embedding, given.count)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        made = embeddings(given.rows, given.width)
        inputs = write_inputs(folder, made)
        unit = made / np.linalg.norm(made, axis=1, keepdims=True) if given.rows <= COMPARED else None
        del made
        print(f"{given.rows} samples, {given.width} dimensions, {given.percent} %, {given.ranks} ranks\n"
              f"{'':12} {'seconds':>9} {'of cores':>9} {'GB':>7} {'objective':>11} {'of exact':>9}")
        exact = None
        for form in sorted(given.only, key=lambda form: form != "exact"):
            try:
                if form in FORMS:
                    done = ours(form, given.ranks, folder, inputs, given.percent, given.memory)
                else:
                    done = theirs(form, inputs[1], round(given.rows * given.percent / 100))
            except RuntimeError as error:
                print(f"{form:12} does not run here: {str(error).strip().splitlines()[-1][:90]}")
                continue
            reached = share = ""
            if unit is not None:
                objective = value(unit, done.rows)
                exact = objective if form == "exact" else exact
                reached, share = f"{objective:.2f}", f"{100 * objective / exact:.2f} %" if exact else ""
            print(f"{form:12} {done.seconds:9.1f} {done.processor_seconds:9.1f} {done.gigabytes:7.2f} {reached:>11} {share:>9}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
