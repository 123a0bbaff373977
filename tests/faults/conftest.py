import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "jobs"), str(ROOT / "tests" / "support" / "python")]

from program import run  # noqa: E402  (the path comes first)
from tiny import Inputs, write_tokens  # noqa: E402

FINE = ("--unit-flops", "1")  # every sample is a unit: many moments to be killed at
COMMANDS = {
    "kernel-ridge": ["--landmarks", 80, "--columns", "tasks", *FINE],
    "auto": ["--landmarks", 80, "--columns", "tasks", "--embedding", "auto+gradient-tail:1", *FINE],
    "refine": ["--landmarks", 80, "--columns", "tasks", "--select", "10%", "--refine", 6, *FINE],
    "hessian": ["--propagation", "none", "--selection", "weighted", "--order", "second-order", "--curvature", "hessian",
                "--learning-rate", 0.05, "--curvature-rank", 6, "--columns", "tasks", "--contrast", 30, *FINE],
    "network": ["--landmarks", 80, "--propagation", "network", "--network-width", 300, "--selection", "top-k", *FINE],
    "exact-tasks": ["--propagation", "none", "--columns", "tasks", "--selection", "top-k", *FINE],
    "delift": ["--influence", "delift", "--propagation", "none", "--columns", "tasks", "--selection", "top-k", *FINE],
}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"), 300, 50, joints=True)


@pytest.fixture(scope="session")
def few(inputs, tmp_path_factory) -> Path:
    """A pool of the first samples."""
    return write_tokens(tmp_path_factory.mktemp("few") / "pool.h5", inputs.pool[:60], joints=True)


@pytest.fixture(scope="session")
def command(inputs, few):
    """The arguments of a named command with a certain --out. DELIFT looks at every pair of a pool and a target sample: at few."""
    return lambda name, out, *extra: inputs.arguments(out, *COMMANDS[name], *extra, pool=[few] if name == "delift" else None)


@pytest.fixture(scope="session")
def reference(command, tmp_path_factory):
    """The result of an uninterrupted run of a named command, made when it is first asked for."""
    directory = tmp_path_factory.mktemp("references")

    @functools.cache
    def result(name: str) -> Path:
        run(2, *command(name, directory / f"{name}.h5"))
        return directory / f"{name}.h5"

    return result
