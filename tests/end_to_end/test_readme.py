"""The README's tables are what the program says of itself and writes."""

import os
import re
import subprocess
from pathlib import Path

import optimizer_states
import pytest
from idistill.result import Result
from program import run
from tiny import load_model

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
OPTION = re.compile(r"^  (?:-h, )?--([a-z-]+)", re.M)
ROW = re.compile(r"^\| `(?:-h, )?--([a-z-]+).*?` \| (.*) \|$", re.M)
WITH_PROPAGATION = "with propagation"  # how the README marks what an exact result does not have
WITH_OPTIMIZER = "only with `--optimizer`"
WITH_HESSIAN = "only with `--curvature hessian`"
WITH_WEIGHTS = "only with `--selection weighted`"


@pytest.fixture(scope="module")
def help_text() -> str:
    commands = ([], ["plan"], ["select"], ["embed"])
    said = [subprocess.run([os.environ["IDISTILL_PROGRAM"], *command, "--help"], check=True, capture_output=True, text=True)
            for command in commands]
    return "".join(one.stdout for one in said)


def test_every_option_is_documented(help_text):
    documented = [option for option, _ in ROW.findall(README)]
    assert len(documented) == len(set(documented)) > 30
    assert set(documented) == set(OPTION.findall(help_text))


def test_meanings_and_defaults_agree(help_text):
    said = " ".join(help_text.split())
    for option, meaning in ROW.findall(README):
        assert " ".join(meaning.replace("\\|", "|").split()) in said, option


def test_every_exit_code_is_documented():
    header = (ROOT / "include" / "idistill" / "report" / "error.hpp").read_text()
    codes = set(re.findall(r"^ +\w+ = (\d+),", header, re.M))
    assert len(codes) > 5
    assert codes == set(re.findall(r"^\| (\d+) \| ", README, re.M))


def documented(section: str) -> dict[str, str]:
    """{name: meaning} of the tables in a section: names are all code words of the first column."""
    text = re.search(rf"^### {section}\n(.*?)^##", README, re.M | re.S)[1]
    rows = re.findall(r"^\| (`.*?) \|(?:.*\|)? (.*?) \|$", text, re.M)
    return {name: meaning for names, meaning in rows for name in re.findall(r"`([^`]+)`", names)}


def plain_ones(meanings: dict[str, str]) -> set[str]:
    marks = (WITH_PROPAGATION, WITH_OPTIMIZER, WITH_HESSIAN)
    return {name for name, meaning in meanings.items() if not any(mark in meaning for mark in marks)}


def without_timings(names) -> set[str]:
    return {name for name in names if not name.startswith("seconds_")}


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory) -> dict[str, tuple[set[str], set[str]]]:
    """{run: (datasets, attributes)}"""
    directory = tmp_path_factory.mktemp("documented")
    model = load_model(inputs.model)
    state = optimizer_states.state_of(model, optimizer_states.trained(model, inputs.pool))
    state = optimizer_states.save(directory / "optimizer.safetensors", state)
    second = ["--selection", "weighted", "--influence", "second-order", "--curvature", "hessian", "--rank", 2, "--learning-rate", 0.1]
    run(2, *inputs.arguments(directory / "ridge.h5", "--landmarks", "auto:60", "--embedding", "auto", "--refine", 3, "--optimizer",
                             state, *second))
    run(2, *inputs.arguments(directory / "exact.h5", "--propagation", "none", "--columns", "tasks"))
    run(1, "select", "--result", directory / "exact.h5", "--out", directory / "again.h5", "--select", 7)
    run(1, "select", "--result", directory / "exact.h5", "--out", directory / "weighted.h5", "--selection", "weighted")
    run(2, "select", "--result", directory / "weighted.h5", "--out", directory / "plain.h5")

    def contents(path):
        with Result(path) as result:
            return {f"/{name}" for name in result.names()}, without_timings(result.attributes)

    return {path.stem: contents(path) for path in directory.glob("*.h5")}


def test_every_dataset_is_documented(results):
    meanings = documented("Datasets")
    assert results["ridge"][0] == set(meanings)
    assert results["exact"][0] == plain_ones(meanings)
    assert results["again"][0] == results["exact"][0]


def test_every_attribute_is_documented(results):
    meanings = documented("Attributes")
    of_select = {name for name in meanings if name.startswith("selection_")}
    of_weights = {name for name, meaning in meanings.items() if WITH_WEIGHTS in meaning}
    always = without_timings(meanings) - of_select - of_weights
    assert results["ridge"][1] == always | of_weights
    assert results["exact"][1] == plain_ones({name: meanings[name] for name in always})
    assert results["again"][1] == results["exact"][1] | of_select
    assert results["weighted"][1] == results["again"][1] | of_weights
    assert results["plain"][1] == results["again"][1]  # nothing is left of the weights
    assert len(of_select) == 2 and any(name.startswith("seconds_") for name in meanings)
