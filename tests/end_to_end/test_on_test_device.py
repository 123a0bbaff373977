"""The whole program with its tensors on the test device, where a host pointer into one ends it: what the CPU finds, for every
family of models and every member that computes with one."""

import os
import re

import less_truth
import numpy as np
import optimizer_states
import program
import pytest
import tiny
from idistill.output_file import OutputFile
from made_files import write_ratings
from program import run
from tiny import Inputs, load_model
from transformers import Qwen2Config, Qwen3Config

LARGEST_ERROR = {"network": 1e-3, "bf16": 1e-2}  # relative; training carries rounding on
OTHERWISE = 1e-5
RUNS = {
    "kernel-ridge": ["--landmarks", 40, "--refine", 20],
    "embeddings": ["--landmarks", 40, "--embedding", "jvp+hidden+gradient-tail:2", "--kernel", "product"],
    "network": ["--landmarks", 40, "--propagation", "network"],
    "hessian": ["--propagation", "none", "--columns", "tasks", "--selection", "weighted", "--order", "second-order",
                "--curvature", "hessian", "--curvature-rank", 3, "--learning-rate", 0.05],
    "kronecker": ["--propagation", "none", "--sketch", "kronecker"],
    "hadamard": ["--propagation", "none", "--sketch", "hadamard", "--sketch-dim", 512],
    "rademacher": ["--propagation", "none", "--sketch", "rademacher", "--sketch-dim", 128],
    "optimizer": ["--landmarks", 40, "--optimizer", "optimizer.safetensors"],
    "less": ["--influence", "less", "--propagation", "none", "--checkpoint", "checkpoint:2e-5"],
    "bf16": ["--landmarks", 20, "--jvp-blocks", 2, "--dtype", "bf16"],
    "delift": ["--influence", "delift", "--propagation", "none", "--selection", "top-k"],
    "selectit": ["--influence", "selectit", "--propagation", "none", "--ratings", "ratings.h5"],
}  # fmt: skip
FAMILIES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    made = Inputs(tmp_path_factory.mktemp("inputs"), 90, 8, joints=True)
    model = load_model(made.model)
    state = optimizer_states.state_of(model, optimizer_states.trained(model, made.pool))
    optimizer_states.save(made.directory / "optimizer.safetensors", state)
    less_truth.save_checkpoint(made.directory / "checkpoint", less_truth.moved_on(model, 3), made.pool, 0)
    write_ratings(made.directory / "ratings.h5", {one.id: [one.tokens[:n] for n in (3, 2, 1)] if len(one.tokens) else [] for one in made.pool})
    return made


@pytest.fixture(params=FAMILIES, scope="module")
def other_family(request, tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp(request.param), 90, 8, config=FAMILIES[request.param](**tiny.SIZES))


def arguments(inputs: Inputs, out, words) -> list:
    given = [inputs.directory / word if str(word).split(":")[0] in ("optimizer.safetensors", "checkpoint", "ratings.h5") else word
             for word in words]  # fmt: skip
    made = inputs.arguments(out, *given, "--select", 20, *inputs.unit)
    if "selectit" not in words:
        return made
    first = made.index("--target")  # it rates samples by themselves
    return made[:first] + made[first + 1 + len(inputs.target_files) :]


DATASETS = ("influence", "landmark/influence", "gradient_norm", "column/gradient_norm", "curvature/value", "embedding")


def run_of(binary, ranks, words, out) -> tuple[list[int], dict]:
    """Operators that every rank computed on the test device, and the datasets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "PROGRAM", os.environ[binary])
        said = run(ranks, *words(out))
    with OutputFile(out) as file:
        found = {dataset: np.asarray(file[dataset], np.float64) for dataset in DATASETS if dataset in file.names()}
    return [int(count) for count in re.findall(r"test device: (\d+) operators", said)], found


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """compare(words, ranks, largest_error) runs of both programs; words(out): their arguments. The CPU's run of one rank has the
    bits of any number of ranks."""
    known = {}

    def get(words, ranks, largest_error=OTHERWISE):
        out = tmp_path_factory.mktemp("runs") / "out.h5"
        key = tuple(map(str, words("out")))
        if key not in known:
            operators, known[key] = run_of("IDISTILL_PROGRAM", 1, words, out.with_name("cpu.h5"))
            assert operators == [] and known[key]
        operators, found = run_of("IDISTILL_PROGRAM_ON_TEST_DEVICE", ranks, words, out)
        assert len(operators) == ranks and all(count > 100 for count in operators), operators
        assert known[key].keys() == found.keys()
        for dataset, cpu in known[key].items():
            device = found[dataset]
            assert np.array_equal(np.isnan(cpu), np.isnan(device)), dataset
            error = np.linalg.norm(np.nan_to_num(device - cpu)) / np.linalg.norm(np.nan_to_num(cpu))
            assert error < largest_error, (dataset, error)

    return get


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", RUNS)
def test_members(inputs, compare, name, ranks):
    compare(lambda out: arguments(inputs, out, RUNS[name]), ranks, LARGEST_ERROR.get(name, OTHERWISE))


@pytest.mark.parametrize("ranks", [1, 2])
def test_other_families_of_models(other_family, compare, ranks):
    compare(lambda out: arguments(other_family, out, RUNS["kernel-ridge"]), ranks)


@pytest.mark.parametrize("kind", ["jvp", "hidden", "gradient-tail:2"])
def test_embed(inputs, compare, kind):
    words = ["embed", "--model", inputs.model, "--pool", inputs.pool_file, "--embedding", kind, *inputs.unit, "--out"]
    compare(lambda out: [*words, out], 2)
