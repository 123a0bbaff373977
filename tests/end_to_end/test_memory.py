"""What `plan` says of a run is what the run takes: size of its state and result files, and memory of its ranks.

Memory of a rank is the most that the kernel ever counted as resident (VmHWM) less what the ranks share (RssShmem: the weights in
/dev/shm and MPI's own segments). A rank that is alone on its node has the weights to itself: there all of it is compared with
what plan says of the node. Pages of libraries count for every rank, as plan's "program and libraries" does.
"""

import re
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from idistill.token_file import TokenFile
from made_files import write_embedding
from program import Job, run
from tiny import Sample, write_tokens
from transformers import AutoModelForCausalLM, LlamaConfig

VOCABULARY = 4096
CONFIG = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=128, intermediate_size=512, num_hidden_layers=12, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False,
)
RANKS = (1, 2)
# Of what takes most memory every rank gets a unit, with full micro-batches: one that got a remainder alone would take less.
SIZES = ["--unit-flops", "6e10", "--batch-tokens", 4096]
SKETCH = ["--sketch-dim", 16384]
EXACT = ["--propagation", "none"]
HESSIAN = ["--selection", "weighted", "--order", "second-order", "--curvature", "hessian", "--curvature-rank", 8,
           "--learning-rate", 0.05]
HIDDEN = ["--embedding", "hidden"]
SENTENCES, WIDE = "sentences.h5", "wide.h5"  # embeddings, in the folder of the inputs
BY_SENTENCES = [*EXACT, "--influence", "delift-se", "--sentence-embedding", SENTENCES]
FACILITY = [*BY_SENTENCES, "--selection", "facility-location", "--select", 30, "--similarity"]
KINDS = {  # and what takes most memory in each
    "propagated": [*SKETCH, "--landmarks", 600, "--jvp-tangents", 10, "--jvp-blocks", 2],  # tangents
    "exact": [*SKETCH, *EXACT],  # a micro-batch of the gradient pass, and a unit's sketches
    "contraction": [*EXACT, "--columns", "tasks"],  # the same without sketches
    "refine": [*SKETCH, *HIDDEN, "--landmarks", 500, "--refine", 5, "--select", 240],  # the gradient pass of the shortlist
    "hessian": [*SKETCH, *HIDDEN, "--landmarks", 300, *HESSIAN, "--parameters", "proj"],  # directions, and dual numbers
    "delift": [*HIDDEN, "--landmarks", 4, "--influence", "delift"],  # targets behind an example, which is a unit
    "delift-se": BY_SENTENCES,  # a unit's rows on all of the pool
    "facility-location": [*FACILITY, SENTENCES, "--memory", 0.07],  # similarities of pairs, which are more than it may keep
    "sparse": [*FACILITY, WIDE, "--greedy", "sparse", "--neighbours", 600],  # embeddings, and the neighbours of all
    "embed": ["--embedding", "gradient", "--embedding-dim", 4096],  # the gradient pass, and a unit's rows
}
POOL = 1500  # two units of gradients
WHOLE, WHOLE_KINDS = 3000, ("delift-se",)  # of which no model reads anything
LARGE, LARGE_KINDS = 12000, ("facility-location", "sparse")
FILES = 0.01  # relative
MEMORY = (1.0, 1.5)  # planned over real


class Inputs:
    """Short samples of long ids: a result of some megabytes for little computing."""

    def __init__(self, directory: Path):
        self.model = directory / "model"
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(CONFIG).save_pretrained(self.model)
        random = np.random.default_rng(1)
        def write(name, sources, count):
            samples = [sample(random, i, sources[i % len(sources)]) for i in range(count)]
            return write_tokens(directory / f"{name}.h5", samples, 64, joints=True)

        self.pool = write("pool", ("web", "math", "code"), POOL)
        self.whole = write("whole", ("web", "math", "code"), WHOLE)  # with the ids of the pool, and more
        self.targets = {name: write(name, [name], count) for name, count in (("math", 60), ("code", 50))}
        self.many = {"many": write("many", ["many"], 900)}  # for full micro-batches of targets
        self.large = write("large", ("web", "math", "code"), LARGE)  # with the ids of both, and more
        self.few = {"few": write("few", ["few"], 110)}  # with ids of their own
        of_pool, of_targets = ids(self.large), ids(self.few["few"])
        write_embedding(directory / SENTENCES, of_pool + of_targets, around_one(random, LARGE + len(of_targets), 64))
        write_embedding(directory / WIDE, of_pool, around_one(random, LARGE, 800))
        self.directory = directory

    def arguments(self, kind: str) -> list:
        words = [self.directory / word if word in (SENTENCES, WIDE) else word for word in KINDS[kind]]
        pool = self.large if kind in LARGE_KINDS else self.whole if kind in WHOLE_KINDS else self.pool
        common = ["--model", self.model, "--pool", pool, *SIZES, *words]
        if kind in ("embed", "delift-se"):
            return common
        targets = self.many if kind == "delift" else self.few if kind in LARGE_KINDS else self.targets
        return [*common, "--target", *(f"{name}={path}" for name, path in targets.items())]


def around_one(random: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Embeddings at one angle from a common direction: all cosines are positive, and none is nearer to all than others are."""
    noise = random.normal(size=(rows, width))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    noise[:, 0] += 2
    return noise


def ids(path: Path) -> list[str]:
    with TokenFile(path) as file:
        return [row[0] for row in file]


def sample(random: np.random.Generator, number: int, source: str) -> Sample:
    length = int(random.integers(3, 11))
    mask = (random.random(length) < 0.5).astype(np.uint8)
    mask[-1] = 1
    name = f"{source}-{number}-".ljust(192, "0")
    return Sample(name, source, random.integers(2, VOCABULARY, length).astype(np.int32), mask)


class Planned(NamedTuple):
    state: float
    result: float
    rank: float  # together, without what rank 0 alone takes
    solve: float  # what this is
    node: float  # together


class Real(NamedTuple):
    state: int
    result: int
    peak: list[int]  # of every rank, with what is shared
    own: list[int]  # without


UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def planned_in(text: str) -> Planned:
    """Section by section, as their lines are called alike."""
    found, section = {}, ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            section = line.split(" with ")[0]
        elif row := re.match(r"  (\S.*?) {2,}([\d.]+) ([kMG]?B)\b", line):
            found[section, row[1].split(",")[0]] = float(row[2]) * UNITS[row[3]]
    return Planned(found["Disk", "state"], found["Disk", "result"], found["Memory of one rank", "together"],
                   found.get(("Memory of one node", "solve"), 0.0), found["Memory of one node", "together"])


def planned(inputs: Inputs, kind: str, ranks: int, out: Path) -> Planned:
    command = ["plan", "embed"] if kind == "embed" else ["plan"]
    return planned_in(run(ranks, *command, *inputs.arguments(kind), "--out", out))


def resident(pid: int) -> dict[str, int]:
    """Of a process, in bytes; nothing of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return {name: 1024 * int(count) for name, count in re.findall(r"^(VmHWM|RssShmem):\s+(\d+) kB$", status, re.M)}


def real(inputs: Inputs, kind: str, ranks: int, out: Path) -> Real:
    """Looks at the run until it ends, when its state is removed: the state has its whole size from the start, and the kernel
    keeps the most that a process had."""
    state_file, state = out.with_name(out.name + ".state"), 0
    peak, shared = [0] * ranks, [0] * ranks
    with Job(ranks, *(["embed"] if kind == "embed" else []), *inputs.arguments(kind), "--out", out) as job:
        pids = job.all_pids()
        while job.process.poll() is None:
            for rank, pid in pids.items():
                now = resident(pid)
                peak[rank] = max(peak[rank], now.get("VmHWM", 0))
                shared[rank] = max(shared[rank], now.get("RssShmem", 0))
            if state_file.exists():
                state = max(state, size_of(state_file))
            time.sleep(0.005)
        assert job.wait(30) == 0, job.said()
    return Real(state, out.stat().st_size, peak, [a - b for a, b in zip(peak, shared)])


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed between two looks
        return 0


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def measured(inputs, tmp_path_factory):
    """(planned, real) by kind and ranks, each run when it is first asked for."""
    directory = tmp_path_factory.mktemp("measured")
    known = {}

    def get(kind: str, ranks: int) -> tuple[Planned, Real]:
        if (kind, ranks) not in known:
            out = directory / f"{kind}-{ranks}.h5"
            known[kind, ranks] = planned(inputs, kind, ranks, out), real(inputs, kind, ranks, out)
        return known[kind, ranks]

    return get


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("kind", KINDS)
def test_files_have_the_planned_size(measured, kind, ranks):
    plan, found = measured(kind, ranks)
    assert found.state > 5e6 and found.result > 3e5, "too small for a hundredth to mean anything"
    assert plan.state == pytest.approx(found.state, rel=FILES)
    assert plan.result == pytest.approx(found.result, rel=FILES)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_what_was_planned(measured, kind, ranks):
    """No rank takes more, and the fullest not much less: one that the claims gave smaller units may, by chance, which no plan knows."""
    plan, found = measured(kind, ranks)
    if ranks == 1:
        ratios = [plan.node / found.peak[0]]
    else:
        ratios = [(plan.rank + (plan.solve if rank == 0 else 0.0)) / own for rank, own in enumerate(found.own)]
    assert min(ratios) >= MEMORY[0], (plan, found)
    assert min(ratios) <= MEMORY[1], (plan, found)
