#!/usr/bin/env python3
"""Two builds of idistill_mpi give the same bits: `record` keeps what one makes of some fifty small runs, `compare` holds another
against it, dataset by dataset. For changes of the program that change no number.

    compare_programs.py record  --program OLD/idistill_mpi --out DIR [--old-spelling]
    compare_programs.py compare --program NEW/idistill_mpi --with DIR [--only NAME ...] [--ranks 1 2 3] [--old-spelling]

Both on the same machine: other processors round differently. Runs are spelt as the program of today wants them; --old-spelling
is for programs from before --order and --curvature-rank.
"""

import argparse
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "jobs"), str(Path(__file__).resolve().parent)]

ENVIRONMENT = {
    **os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_NUM_THREADS": "1",
}
OLD_SPELLING = {"--order": "--influence", "--curvature-rank": "--rank"}
# Attributes that say how a result came about, not what it is; of the texts, those that say what it is.
CIRCUMSTANCES = ("ranks", "units_recovered", "seconds_")
TEXTS = ("format", "loss", "embedding", "kernel")


class Run(NamedTuple):
    arguments: list
    needs: tuple[str, ...] = ()  # runs whose files, NAME.1.h5, the arguments name

    def line(self, out: str, old_spelling: bool) -> list[str]:
        words = [str(word) for word in [*self.arguments, "--out", out]]
        return [OLD_SPELLING.get(word, word) for word in words] if old_spelling else words


# All are started in a folder beside `inputs`: a result holds the name of an embedding file as it was given.
INPUTS = "../inputs"
UNIT = ["--unit-flops", "2e7"]  # a few samples each: every stage has more units than there are ranks
TARGETS = ["--target", f"math={INPUTS}/math.h5", f"code={INPUTS}/code.h5"]
ADAMW = ["--optimizer", f"{INPUTS}/adamw.safetensors"]
RIDGE = ["--landmarks", 40]
HIDDEN = [*RIDGE, "--embedding", "hidden"]
EXACT = ["--propagation", "none"]
TASKS = ["--columns", "tasks"]
FIRST = ["--selection", "weighted", "--order", "first-order"]
SECOND = ["--selection", "weighted", "--order", "second-order"]
HESSIAN = [*SECOND, "--curvature", "hessian", "--curvature-rank", 3, "--learning-rate", 0.05]


def of_pool(*options, pool=("pool",), select=("--select", 12), needs=(), unit=UNIT) -> Run:
    pools = [f"{INPUTS}/{name}.h5" for name in pool]
    return Run(["--model", f"{INPUTS}/model", "--pool", *pools, *TARGETS, *select, *unit, *options], needs)


def select_from(result: str, *options) -> Run:
    return Run(["select", "--result", f"{result}.1.h5", *options], (result,))


def embed(*options) -> Run:
    return Run(["embed", "--model", f"{INPUTS}/model", "--pool", f"{INPUTS}/pool.h5", *UNIT, *options])


RUNS = {
    # embeddings, and the propagation from them
    "embed-jvp": embed(),
    "embed-hidden": embed("--embedding", "hidden", "--jvp-blocks", 2),
    "embed-tail": embed("--embedding", "gradient-tail:2"),
    "embed-gradient": embed("--embedding", "gradient", "--embedding-dim", 640),
    "embed-gradient-attention": embed("--embedding", "gradient", "--parameters", "[qo]_proj", "--embedding-dim", 300),
    "jvp": of_pool(*RIDGE),
    "jvp-dense": of_pool(*RIDGE, "--jvp-rank", 0, "--jvp-blocks", 2, "--jvp-tangents", 3, "--batch-tokens", 200),
    "hidden": of_pool(*HIDDEN),
    "hidden-short": of_pool(*HIDDEN, "--jvp-blocks", 1, "--embedding-dim", 20, "--contrast", 0),
    "tail": of_pool(*RIDGE, "--embedding", "gradient-tail:1"),
    "file": of_pool(*RIDGE, "--embedding", "embed-gradient.1.h5", needs=("embed-gradient",)),
    "jvp-and-hidden": of_pool(*RIDGE, "--embedding", "jvp+hidden"),
    "product-of-three": of_pool(*RIDGE, "--embedding", "hidden+gradient-tail:2+embed-tail.1.h5", "--kernel", "product",
                                needs=("embed-tail",)),
    "embedding-auto": of_pool(*RIDGE, "--embedding", "auto"),
    "embedding-auto-and-file": of_pool(*RIDGE, "--embedding", "auto+embed-gradient.1.h5", "--bandwidth", "auto",
                                       needs=("embed-gradient",)),
    "no-metadata": of_pool(*HIDDEN, "--metadata", "off", "--damping", 0.1, "--bandwidth", "auto"),
    "bandwidth": of_pool(*HIDDEN, "--bandwidth", 3.5, "--seed", 7),
    "every-landmark": of_pool("--embedding", "hidden"),
    "landmarks-auto": of_pool("--landmarks", "auto:300", "--embedding", "hidden", *TASKS, pool=("large",)),
    "landmarks-auto-weighted": of_pool("--landmarks", "auto:280", "--embedding", "auto", pool=("large",)),
    "raw": of_pool(*HIDDEN, "--normalize", "none"),
    "tasks": of_pool(*HIDDEN, *TASKS),
    # exact influence
    "exact": of_pool(*EXACT),
    "exact-raw": of_pool(*EXACT, "--normalize", "none", "--contrast", 0),
    "exact-two-files": of_pool(*EXACT, pool=("first", "second"), unit=["--unit-flops", "1e15"]),
    "contraction": of_pool(*EXACT, *TASKS),
    "contraction-raw": of_pool(*EXACT, *TASKS, "--normalize", "none", "--contrast", 20),
    "hadamard": of_pool(*EXACT, "--sketch", "hadamard", "--sketch-dim", 500),
    "rademacher": of_pool(*EXACT, "--sketch", "rademacher", "--sketch-dim", 64),
    "kronecker-short": of_pool(*EXACT, "--sketch", "kronecker", "--sketch-dim", 500),
    "no-sketch": of_pool(*EXACT, "--sketch", "none"),
    "attention": of_pool(*EXACT, "--parameters", r"layers\.[13]\..*[qkvo]_proj"),
    # the optimizer
    "optimizer": of_pool(*HIDDEN, *ADAMW),
    "optimizer-exact": of_pool(*EXACT, *ADAMW, *SECOND, "--learning-rate", 0.05),
    "optimizer-contraction": of_pool(*EXACT, *TASKS, *ADAMW),
    "optimizer-raw": of_pool(*EXACT, *ADAMW, "--normalize", "none", "--sketch", "none"),
    "sgd": of_pool(*EXACT, "--optimizer", f"{INPUTS}/sgd.safetensors"),
    # the Hessian
    "hessian": of_pool(*EXACT, *HESSIAN),
    "hessian-propagated": of_pool(*HIDDEN, *HESSIAN),
    "hessian-raw": of_pool(*HIDDEN, *HESSIAN, "--normalize", "none"),
    "hessian-tasks": of_pool(*EXACT, *HESSIAN, *TASKS),
    "hessian-optimizer": of_pool(*EXACT, *HESSIAN, *ADAMW),
    "hessian-optimizer-tasks": of_pool(*EXACT, *HESSIAN, *ADAMW, *TASKS, "--contrast", 0),
    "hessian-refined": of_pool(*HIDDEN, *HESSIAN, "--refine", 2),
    # refining
    "refine": of_pool(*HIDDEN, "--refine", 2),
    "refine-auto": of_pool(*HIDDEN, "--refine", "auto", "--selection", "round-robin"),
    "refine-tasks": of_pool(*HIDDEN, *TASKS, "--refine", 2, "--selection", "top-k"),
    "refine-optimizer-raw": of_pool(*HIDDEN, *ADAMW, "--refine", 2, "--normalize", "none"),
    "refine-tokens": of_pool(*HIDDEN, "--refine", 3, "--source-cap", "math=2", select=("--select-tokens", 150)),
    # rules and budgets
    "first-order": of_pool(*EXACT, *FIRST),
    "first-order-lambda": of_pool(*EXACT, *FIRST, "--lambda", 0.003, select=()),
    "equal-weights": of_pool(*EXACT, *FIRST, "--lambda", 0),
    "second-order": of_pool(*EXACT, *SECOND, "--learning-rate", 0.05),
    "limited": of_pool(*EXACT, *SECOND, "--learning-rate", 0.05, "--max-weight", "1.5x", "--source-share", "math=0.2", "code=0.1"),
    "limited-auto": of_pool(*EXACT, "--max-weight", 20, "--source-share", "web=0.3"),
    "round-robin": of_pool(*EXACT, "--selection", "round-robin", "--source-cap", "math=2", "web=5"),
    "top-k": of_pool(*EXACT, "--selection", "top-k", select=("--select", "9%")),
    "top-k-max": of_pool(*EXACT, "--selection", "top-k", "--top-k-by", "max", select=("--select-tokens", 200)),
    "random": of_pool(*EXACT, "--selection", "random", "--source-cap", "code=2"),
    # selecting again
    "select": select_from("exact"),
    "select-first-order": select_from("jvp", *FIRST, "--select", 9, "--max-weight", "2x"),
    "select-second-order": select_from("exact-raw", *SECOND, "--learning-rate", 0.5, "--select", "15%"),
    "select-limited": select_from("tail", "--source-share", "math=0.3", "--select", 9),
    "select-round-robin": select_from("contraction", "--selection", "round-robin", "--select", 11, "--source-cap", "math=3"),
    "select-top-k": select_from("hidden", "--selection", "top-k", "--top-k-by", "max", "--select-tokens", 150),
    "select-random": select_from("hidden", "--selection", "random", "--select", 7, "--seed", 3),
    "select-optimizer": select_from("optimizer-exact", *SECOND, "--learning-rate", 0.1, "--select", 10),
    "select-hessian": select_from("hessian-optimizer", *HESSIAN[:6], "--learning-rate", 0.02, "--select", 10),
    "select-fisher-of-hessian": select_from("hessian", "--select", 10),
    "select-refined": select_from("refine", "--select", 8),
}


# --- inputs ---------------------------------------------------------------------------------------------------------


def make_inputs(directory: Path):
    """The tiny model of the tests, pools with samples that cannot be used in between, and optimizer states, by fixed seeds."""
    import optimizer_states
    from tiny import Inputs, load_model, make_pool, write_tokens

    made = Inputs(directory, 90, 7)
    for name, part in (("first", made.pool[:37]), ("second", made.pool[37:])):
        write_tokens(directory / f"{name}.h5", part)
    write_tokens(directory / "large.h5", make_pool(320, 8)[0])
    model = load_model(made.model)
    state = optimizer_states.state_of(model, optimizer_states.trained(model, made.pool))
    optimizer_states.save(directory / "adamw.safetensors", state)
    momentum = {"momentum_buffer": state.moments["exp_avg"]}
    optimizer_states.save(directory / "sgd.safetensors", state._replace(
        kind="sgd", constants={"momentum": 0.9, "dampening": 0.1}, moments=momentum))


# --- running --------------------------------------------------------------------------------------------------------


class Program(NamedTuple):
    path: Path
    old_spelling: bool

    def start(self, name: str, ranks: int, directory: Path) -> str:
        """Writes directory/NAME.RANKS.h5; returns what went wrong, or nothing."""
        command = [os.environ.get("IDISTILL_MPIRUN", "mpirun"), "--oversubscribe", "--bind-to", "none", "-n", str(ranks), str(self.path)]
        command += RUNS[name].line(f"{name}.{ranks}.h5", self.old_spelling)
        try:
            done = subprocess.run(command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            return "no end within 120 s"
        return f"exit code {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}" if done.returncode else ""


# --- what a file holds ----------------------------------------------------------------------------------------------


class Contents(NamedTuple):
    datasets: dict[str, np.ndarray]
    attributes: dict

    def digests(self) -> dict:
        return {name: [*form(values), hashlib.sha256(raw(values)).hexdigest()] for name, values in self.datasets.items()}


def form(values: np.ndarray) -> tuple[str, list[int]]:
    return str(values.dtype), list(values.shape)


def raw(values: np.ndarray) -> bytes:
    """The bytes; of texts of any length, which numpy holds as pointers, the texts."""
    return b"\0".join(values.ravel()) if values.dtype == object else values.tobytes()


def contents(path: Path) -> Contents:
    datasets = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: datasets.update({name: np.asarray(item[()])}) if isinstance(item, h5py.Dataset) else None)
        attributes = {
            name: value if isinstance(value, str) else np.asarray(value).tolist() for name, value in file.attrs.items()
            if not name.startswith(CIRCUMSTANCES) and (name in TEXTS or not isinstance(value, (str, bytes)))
        }
    return Contents(datasets, attributes)


def difference(found: np.ndarray, expected: np.ndarray) -> str:
    """Says nothing of equal values."""
    if form(found) != form(expected):
        return "is {} {}, was {} {}".format(*form(found), *form(expected))
    if raw(found) == raw(expected):
        return ""
    a, b = found.ravel(), expected.ravel()
    if a.dtype == object or a.dtype.kind == "S":
        differing = np.flatnonzero(a != b)
        what = ""
    else:
        differing = np.flatnonzero((a.view(np.uint8).reshape(len(a), -1) != b.view(np.uint8).reshape(len(b), -1)).any(1))
        gap = np.abs(a[differing].astype(float) - b[differing].astype(float))
        what = f", largest difference {np.nanmax(gap):.3g}" if np.isfinite(gap).any() else ", of numbers that are not finite"
    first = tuple(int(i) for i in np.unravel_index(differing[0], found.shape))
    return f"{len(differing)} of {len(a)} entries, first {first}: {a[differing[0]]!r}, was {b[differing[0]]!r}{what}"


def differences(found: Contents, expected: Contents) -> list[tuple[str, str]]:
    """(name, what differs) of datasets and attributes."""
    rows = []
    for kind, a, b, compare in (
            ("", found.datasets, expected.datasets, difference),
            ("attribute ", found.attributes, expected.attributes, lambda x, y: "" if repr(x) == repr(y) else f"{x!r}, was {y!r}")):
        rows += [(kind + name, "is missing") for name in b if name not in a] + [(kind + name, "is new") for name in a if name not in b]
        rows += [(kind + name, said) for name in a if name in b and (said := compare(a[name], b[name]))]
    return rows


# --- the two commands -----------------------------------------------------------------------------------------------


def record(program: Program, directory: Path, names: list[str], ranks: list[int], jobs: int) -> bool:
    if not (directory / "inputs" / "sgd.safetensors").exists():
        shutil.rmtree(directory / "inputs", ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        make_inputs(directory / "inputs")
    recorded = directory / "recorded"
    shutil.rmtree(recorded, ignore_errors=True)
    recorded.mkdir()
    table = {}

    def check(name: str, wrong: dict[int, str]) -> list[tuple[int, str, str]]:
        rows = [(count, "the run", said) for count, said in wrong.items() if said]
        if not rows:
            first = contents(recorded / f"{name}.1.h5")
            for count in ranks:
                rows += [(count, *row) for row in differences(contents(recorded / f"{name}.{count}.h5"), first)]
                if count > 1:
                    (recorded / f"{name}.{count}.h5").unlink()
            table[name] = {"arguments": RUNS[name].line("", False), "datasets": first.digests(), "attributes": first.attributes}
        return rows

    all_well = report(program, names, [1, *(count for count in ranks if count > 1)], recorded, jobs, check)
    (directory / "record.json").write_text(json.dumps(table, indent=1))
    return all_well


def compare(program: Program, directory: Path, names: list[str], ranks: list[int], jobs: int, recorded_sources: bool) -> bool:
    table = json.loads((directory / "record.json").read_text())
    stale = [name for name in names if name not in table or table[name]["arguments"] != RUNS[name].line("", False)]
    if stale:
        sys.exit(f"{directory}: not recorded, or with other options than today's: {', '.join(stale)}. Record again.")
    found = Path(tempfile.mkdtemp(prefix="compared-", dir=directory))
    if recorded_sources:
        for source in {source for name in names for source in RUNS[name].needs}:
            shutil.copyfile(directory / "recorded" / f"{source}.1.h5", found / f"{source}.1.h5")

    def check(name: str, wrong: dict[int, str]) -> list[tuple[int, str, str]]:
        expected = contents(directory / "recorded" / f"{name}.1.h5")
        if expected.digests() != table[name]["datasets"]:
            sys.exit(f"{directory}/recorded/{name}.1.h5 is not what was recorded. Record again.")
        rows = []
        for count, said in wrong.items():
            rows += [(count, "the run", said)] if said else \
                [(count, *row) for row in differences(contents(found / f"{name}.{count}.h5"), expected)]
        return rows

    all_equal = report(program, names, ranks, found, jobs, check)
    if all_equal:
        shutil.rmtree(found)
    else:
        print(f"the files that differ from those of {directory / 'recorded'} are in {found}")
    return all_equal


def report(program: Program, names: list[str], ranks: list[int], directory: Path, jobs: int, check) -> bool:
    """Runs them all, says what check(name, {rank count: what went wrong}) finds, and whether that is nothing."""
    sources = {source for name in names for source in RUNS[name].needs}
    made = {}  # of the sources at one rank, what went wrong

    def source(name: str):
        made[name] = "" if (directory / f"{name}.1.h5").exists() else program.start(name, 1, directory)

    def all_counts(name: str) -> tuple[dict[int, str], float]:
        start = time.monotonic()
        failed = [f"{needed}, which it needs: {made[needed]}" for needed in RUNS[name].needs if made[needed]]
        wrong = {count: failed[0] if failed else made[name] if count == 1 and name in made else program.start(name, count, directory)
                 for count in ranks}
        return wrong, time.monotonic() - start

    equal = 0
    width = max(map(len, names))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(source, sorted(sources)))
        for name, (wrong, seconds) in zip(names, pool.map(all_counts, names)):
            rows = check(name, wrong)
            equal += not rows
            print(f"{name:{width}}  ranks {' '.join(map(str, ranks))}  {'DIFFERS' if rows else 'equal'}  {seconds:.1f} s", flush=True)
            for count, what, said in rows:
                print(f"    {count} rank{'s' if count > 1 else ''}  {what:32} {said}", flush=True)
    print(f"{equal} runs equal, {len(names) - equal} differ")
    return equal == len(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, option in (("record", "--out"), ("compare", "--with")):
        command = commands.add_parser(name)
        command.add_argument("--program", type=Path, required=True)
        command.add_argument(option, type=Path, required=True, metavar="DIR", dest="directory")
        command.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3])
        command.add_argument("--jobs", type=int, default=1, help="runs at a time")
        command.add_argument("--old-spelling", action="store_true", help="the program is from before --order and --curvature-rank")
        if name == "compare":
            command.add_argument("--recorded-sources", action="store_true",
                                 help="results to select from and embedding files are the recorded ones, not the program's own")
            command.add_argument("--only", nargs="+", metavar="NAME", help="these runs; * stands for anything: 'select*'")
    commands.add_parser("list")
    arguments = parser.parse_args()
    if arguments.command == "list":
        for name, run in RUNS.items():
            print(name, *run.line("OUT", False))
        return 0
    patterns = getattr(arguments, "only", None) or ["*"]
    names = [name for name in RUNS if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if idle := [pattern for pattern in patterns if not fnmatch.filter(RUNS, pattern)]:
        sys.exit(f"no such run: {', '.join(idle)}; there are {', '.join(RUNS)}")
    program = Program(arguments.program.resolve(), arguments.old_spelling)
    where = (program, arguments.directory.resolve(), names, arguments.ranks, arguments.jobs)
    return 0 if (record(*where) if arguments.command == "record" else compare(*where, arguments.recorded_sources)) else 1


if __name__ == "__main__":
    sys.exit(main())
