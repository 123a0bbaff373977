"""The same command gives the same bits at any number of ranks: every dataset, poisoned rows and ties included."""

import re

import pytest
from program import assert_same, run, run_alone
from tiny import Inputs, write_tokens

RANKS = (2, 3, 5)
RUNS = {
    "kernel-ridge-jvp": ["--landmarks", 60, "--selection", "round-robin", "--select", 40, "--source-cap", "math=9", "code=0"],
    "kernel-ridge-hidden-tasks": ["--landmarks", 60, "--embedding", "hidden", "--columns", "tasks", "--selection", "top-k",
                                  "--select", "10%"],
    "hessian": ["--landmarks", 60, "--embedding", "hidden", "--selection", "weighted", "--order", "second-order",
                "--curvature", "hessian", "--curvature-rank", 3, "--learning-rate", 0.05, "--select", 40],
    "several-embeddings": ["--landmarks", 60, "--embedding", "jvp+hidden+gradient-tail:2", "--kernel", "product", "--select", 40],
    "chosen-embedding": ["--landmarks", 60, "--embedding", "auto", "--bandwidth", "auto", "--select", 40],
    "bf16": ["--dtype", "bf16", "--contrast", 16, "--landmarks", 30, "--embedding", "jvp+gradient-tail:2", "--jvp-blocks", 2,
             "--select", 40],
    "bf16-tasks": ["--dtype", "bf16", "--contrast", 16, "--propagation", "none", "--columns", "tasks", "--selection", "top-k",
                   "--select", 50],
    "exact-samples": ["--propagation", "none", "--select-tokens", 900],
    "exact-weighted": ["--propagation", "none", "--selection", "weighted", "--order", "second-order", "--learning-rate", 0.05,
                       "--select", 40, "--max-weight", "1.5x", "--source-share", "math=0.2", "code=0.1"],
    "exact-tasks": ["--propagation", "none", "--columns", "tasks", "--selection", "random", "--select", 50,
                    "--source-cap", "web=7"],
}


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Inputs:
    """For 16 bits, in which CPUs are slow; bad samples and ties are among them too."""
    return Inputs(tmp_path_factory.mktemp("few"), 90)


@pytest.mark.parametrize("name", RUNS)
def test_every_dataset_is_the_same_at_any_number_of_ranks(inputs, few, tmp_path, name):
    inputs = few if "bf16" in RUNS[name] else inputs
    arguments = [*RUNS[name], *inputs.unit]
    plan = run_alone("plan", *inputs.arguments(tmp_path / "none.h5", *arguments))
    units = [int(count) for count in re.findall(r"^  (?:label \w+|exact influence|propagate) +\d+ +(\d+) ", plan, re.M)]
    assert len(units) >= 2 and min(units) >= max(RANKS), f"ranks would idle:\n{plan}"
    run_alone(*inputs.arguments(tmp_path / "1.h5", *arguments))
    for ranks in RANKS:
        run(ranks, *inputs.arguments(tmp_path / f"{ranks}.h5", *arguments))
        assert_same(tmp_path / f"{ranks}.h5", tmp_path / "1.h5")


@pytest.mark.parametrize("name", ["kernel-ridge-jvp", "exact-tasks"])
def test_ranks_without_a_unit_change_nothing(inputs, tmp_path, name):
    for ranks in (1, 4):
        run(ranks, *inputs.arguments(tmp_path / f"{ranks}.h5", *RUNS[name], "--unit-flops", "1e15"))
    assert_same(tmp_path / "4.h5", tmp_path / "1.h5")


def test_more_ranks_than_samples(inputs, tmp_path):
    """A pool of two usable samples, over two files, at five ranks: most have no row, no block and no unit."""
    pool = [write_tokens(tmp_path / f"{i}.h5", [inputs.pool[i]._replace(id=f"s{i}")]) for i in (0, 1)]
    pool.append(write_tokens(tmp_path / "bad.h5", [row for i, row in enumerate(inputs.pool) if i in inputs.reasons][:2]))
    for ranks in (1, 5):
        run(ranks, *inputs.arguments(tmp_path / f"{ranks}.out.h5", "--landmarks", 2, "--select", 2, pool=pool))
    assert_same(tmp_path / "5.out.h5", tmp_path / "1.out.h5")
