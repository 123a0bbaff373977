"""README.md and docs/ say what the program says of itself, writes and takes."""

import itertools
import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import optimizer_states
import pytest
from idistill.rating_file import RatingFileWriter
from program import run
from tiny import load_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text()
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README, FILES, OPTIONS = (PAGES[name] for name in ("README.md", "docs/files.md", "docs/options.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
OF_HELP = re.compile(r"^  (?:-h, )?--([a-z-]+)", re.M)
OF_JOB = re.compile(r"""add_argument\(\s*"--([a-z-]+)""")
COMMANDS = ("plan", "select", "embed")
# Options of other programs that the pages name.
FOREIGN = {"mpirun": {"oversubscribe"}, "srun": {"kill-on-bad-exit", "mpi"}, "docker": {"shm-size"}, "cmake": {"build"}}
REMOVED = {"--influence first-order", "--rank"}  # docs/options.md says what they are called now
NETWORK = "`--propagation network`"
ALWAYS, PROPAGATION, WEIGHTED, BY_SELECT = "always", "propagation", "`--selection weighted`", "`idistill_mpi select`"
SUBSET = "`--selection facility-location`"


def help_of(*command: str) -> str:
    return subprocess.run([os.environ["IDISTILL_PROGRAM"], *command, "--help"], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def program_options() -> dict[str, set[str]]:
    """{command: options}, "" for a run."""
    return {command: set(OF_HELP.findall(help_of(*command.split()))) for command in ("", *COMMANDS)}


def options_of_job(job: str) -> set[str]:
    """Those in its source, and in what jobs share."""
    return {name for path in (ROOT / job, *(ROOT / "jobs").glob("*/**/*.py")) for name in OF_JOB.findall(path.read_text())}


JOBS = {f"jobs/{path.name}": options_of_job(f"jobs/{path.name}") for path in (ROOT / "jobs").glob("*.py")}


# --- README ----------------------------------------------------------------------------------------------------------

def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


def test_the_figure_shows_the_folders_of_src():
    figure = next(block for _, block in FENCE.findall(README) if "under all of it" in block)
    boxes = re.findall(r"\| +([a-z]+) +(?=\|)", figure)
    below = re.findall(r"([a-z]+) \(", figure.partition("under all of it:")[2])
    folders = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()}
    assert set(boxes) | set(below) == folders and len(boxes) + len(below) == len(folders)


def test_the_quickstart_asks_for_what_the_readme_shows():
    """The excerpt of its output: numbers of samples, landmarks and targets are those of the script."""
    script = (ROOT / "jobs" / "quickstart.sh").read_text()
    shown = next(block for _, block in FENCE.findall(README) if block.startswith("leave-one-out trust"))
    landmarks, percent = (re.search(rf"--{name} (\d+)", script)[1] for name in ("landmarks", "select"))
    pool, selected = 1200, 1200 * int(percent) // 100
    assert f"from {landmarks} landmarks" in shown and f"selected {selected} of {pool} samples" in shown
    targets = re.search(r"^targets=\((.*?)\)", script, re.M)[1].split()
    assert re.findall(r"^  (\w+) +0\.\d+", shown, re.M) == targets


# --- links, files and commands ---------------------------------------------------------------------------------------

def anchors(page: str) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\[[^]]*\]\(([^)]+)\)", re.sub(r"`", "", FENCE.sub("", PAGES[name]))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_the_readme_leads_to_every_page():
    assert {f"docs/{path.name}" for path in (ROOT / "docs").iterdir()} <= set(re.findall(r"\]\((docs/[^)#]+)\)", README))


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_exist(name):
    named = set(re.findall(r"(?<![\w/.<])(?:jobs|tests|src|include|docs)/[\w./-]+\w", PAGES[name]))
    missing = {path for path in named if not (ROOT / path).exists() and not path.startswith("include/idistill/<")}
    assert not missing


def commands_in(page: str) -> list[list[str]]:
    """The words of every command line in a code block that is not TOML or Python."""
    found = []
    for language, block in FENCE.findall(page):
        if language:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").split(" # ")[0].split("   #")[0]
            if re.match(r"(jobs/|build/|mpirun |srun |cmake |idistill_mpi |IDISTILL_CMAKE_ARGS)", words):
                found.append(shlex.split(words))
    return found


def unknown_options(words: list[str], program_options) -> set[str]:
    """Options of a command line that none of its programs has: every program takes those up to the next program."""
    unknown, known = set(), set()
    for word, following in itertools.pairwise([*words, ""]):
        program = Path(word).name
        if program == "idistill_mpi":
            known = program_options[following if following in COMMANDS else ""]
        elif word in JOBS:
            known = JOBS[word] | {"help"}
        elif word == "--":  # of jobs/refine_check.py: options of every run follow
            known = program_options[""]
        elif word.startswith("--") and " " in word:  # of jobs/refine_check.py as well
            unknown |= unknown_options(["idistill_mpi", *word.split()], program_options)
        elif program in FOREIGN:
            known = FOREIGN[program]
        elif word.startswith("--") and word[2:].split("=")[0] not in known:
            unknown.add(word)
    return unknown


@pytest.mark.parametrize("name", PAGES)
def test_commands_take_the_options_that_they_are_given(name, program_options):
    commands = commands_in(PAGES[name])
    assert commands or name in ("docs/method.md", "docs/extending.md")
    for words in commands:
        assert not unknown_options(words, program_options), shlex.join(words)
        assert not words[0].startswith("jobs/") or (ROOT / words[0]).exists()


@pytest.mark.parametrize("name", PAGES)
def test_options_that_are_named_exist(name, program_options):
    known = set().union(*program_options.values(), *JOBS.values(), *FOREIGN.values())
    prose = FENCE.sub("", PAGES[name])
    for code in re.findall(r"`([^`\n]+)`", prose):
        if code not in REMOVED:
            assert not {word for word in re.findall(r"(?<![\w-])--([a-z][a-z-]*)", code) if word not in known}, code


def test_settings_files_have_keys_that_are_options(program_options):
    found = 0
    for page in PAGES.values():
        for language, block in FENCE.findall(page):
            if language != "toml":
                continue
            keys = set(tomllib.loads(block))
            found += 1
            if block.startswith("# arms.toml"):
                assert keys <= JOBS["jobs/finetune.py"] | {"tokens", "seeds", "arms"}
            else:
                assert block.startswith("# run.toml") and keys <= program_options[""]
    assert found >= 3


def test_the_code_of_extending_compiles(tmp_path):
    """As a source of the influence family: a member, the list, and the declaration of a stage in a function."""
    member, listed, stage = (block for language, block in FENCE.findall(PAGES["docs/extending.md"]) if language == "cpp")
    source = tmp_path / "extending.cpp"
    source.write_text(f"""{member}
namespace idistill::influence {{
{listed}
void declare(model::Planner& planner, std::int64_t width, const std::vector<double>& flops);
void declare(model::Planner& planner, std::int64_t width, const std::vector<double>& flops) {{
{stage}
}}
}}  // namespace idistill::influence
""")
    commands = json.loads((Path(os.environ["IDISTILL_PROGRAM"]).parent / "compile_commands.json").read_text())
    like = next(entry for entry in commands if entry["file"].endswith("src/influence/members.cpp"))
    words = shlex.split(like["command"].replace(like["file"], str(source)))
    words[words.index("-o"):words.index("-o") + 2] = ["-fsyntax-only"]
    done = subprocess.run(words, cwd=like["directory"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- options and exit codes ------------------------------------------------------------------------------------------

def test_the_table_of_options_is_the_programs():
    """Made by the command that stands beside it; to renew it, put what that prints between the marks."""
    made_by, table = re.search(r"<!-- options: begin \(made by: (.*?)\) -->\n(.*?)<!-- options: end -->", OPTIONS, re.S).groups()
    name, *arguments = made_by.split()
    assert name == "idistill_mpi"
    printed = subprocess.run([os.environ["IDISTILL_PROGRAM"], *arguments], check=True, capture_output=True, text=True).stdout
    assert table.strip() == printed.strip()


def test_every_option_is_documented(program_options):
    before, table, behind = re.split(r"<!-- options: (?:begin.*?|end) -->", OPTIONS)
    documented = set(re.findall(r"^\| `(?:-h, )?--([a-z-]+)", table, re.M))
    documented |= set(re.findall(r"--(result|config|help|version)\b", before + behind))  # of one command, or of no group
    assert documented == set().union(*program_options.values())


def test_every_exit_code_is_documented():
    header = next((ROOT / "include" / "idistill").glob("*/error.hpp")).read_text()
    codes = set(re.findall(r"^ +\w+ = (\d+),", header, re.M))
    assert len(codes) > 5
    assert codes == set(re.findall(r"^\| (\d+) \| ", section("Exit codes", "##", PAGES["docs/cluster.md"]), re.M))


# --- files -----------------------------------------------------------------------------------------------------------

class Documented(NamedTuple):
    written: set[str]  # in a run with all of this
    meaning: str


def section(title: str, level: str = "###", within: str = FILES) -> str:
    return re.search(rf"^{level} {title}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", within, re.M | re.S)[1]


def documented(title: str) -> dict[str, Documented]:
    """{name: what is said of it} of a section's tables of three columns and more: names are all code words of the first."""
    found = {}
    for names, *_, written, meaning in (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in re.findall(r"^\| (`.*) \|$", section(title), re.M)):
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in found, name
            found[name] = Documented(set(written.split(", ")), meaning)
    return found


WEIGHTS = "where anything looks at the weights"  # which all runs here do


def of_other_influences(what: dict[str, Documented]) -> set[str]:
    """What is of influence functions that no run here has."""
    return {name for name, one in what.items() if any(fact.startswith("`--influence ") for fact in one.written)}


def in_a_run_with(what: dict[str, Documented], *facts: str) -> set[str]:
    return {name for name, one in what.items() if one.written <= {ALWAYS, WEIGHTS, *facts}}


def without_timings(names) -> set[str]:
    return {name for name in names if not name.startswith("seconds_")}


def contents(path: Path) -> tuple[set[str], set[str]]:
    """Datasets and attributes."""
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, item: names.append(f"/{name}") if isinstance(item, h5py.Dataset) else None)
        return set(names), without_timings(file.attrs)


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory) -> dict[str, tuple[set[str], set[str], Path]]:
    """{run: (datasets, attributes, file)}"""
    directory = tmp_path_factory.mktemp("documented")
    model = load_model(inputs.model)
    state = optimizer_states.state_of(model, optimizer_states.trained(model, inputs.pool))
    state = optimizer_states.save(directory / "optimizer.safetensors", state)
    second = ["--selection", "weighted", "--order", "second-order", "--curvature", "hessian", "--curvature-rank", 2,
              "--learning-rate", 0.1]
    run(2, *inputs.arguments(directory / "ridge.h5", "--landmarks", "auto:60", "--embedding", "auto", "--refine", 3, "--optimizer",
                             state, *second))
    run(2, *inputs.arguments(directory / "network.h5", "--landmarks", 60, "--propagation", "network", "--embedding", "hidden"))
    run(2, *inputs.arguments(directory / "exact.h5", "--propagation", "none", "--columns", "tasks"))
    run(1, "select", "--result", directory / "exact.h5", "--out", directory / "again.h5", "--select", 7)
    run(1, "select", "--result", directory / "exact.h5", "--out", directory / "weighted.h5", "--selection", "weighted")
    run(1, "select", "--result", directory / "weighted.h5", "--out", directory / "subset.h5", "--selection", "facility-location")
    run(2, "select", "--result", directory / "subset.h5", "--out", directory / "plain.h5")
    return {path.stem: (*contents(path), path) for path in directory.glob("*.h5")}


def test_every_dataset_is_documented(results):
    said = documented("Datasets")
    assert "/column/distance" in (of_others := of_other_influences(said))
    said = {name: said[name] for name in set(said) - of_others}
    of_network = {name for name in said if NETWORK in said[name].written}
    assert results["ridge"][0] == set(said) - of_network
    assert of_network == {name for name in results["network"][0] if name.startswith("/network/")}
    assert results["network"][0] <= in_a_run_with(said, PROPAGATION, NETWORK) | set(said) - of_network
    assert results["exact"][0] == in_a_run_with(said)
    assert results["again"][0] == results["exact"][0]


def test_every_attribute_is_documented(results):
    said = documented("Attributes")
    assert any(name.startswith("seconds_") for name in said)
    of_others = of_other_influences(said)
    assert {"checkpoints", "ratings_sha256"} <= of_others
    said = {name: said[name] for name in without_timings(said) - of_others}
    of_weights, of_subset, of_select = ({name for name in said if mark in said[name].written} for mark in (WEIGHTED, SUBSET, BY_SELECT))
    of_network = {name for name in said if NETWORK in said[name].written}
    assert results["ridge"][1] == set(said) - of_select - of_subset - of_network
    assert of_network == {name for name in results["network"][1] if name.startswith("network_")}
    assert results["exact"][1] == in_a_run_with(said)
    assert results["again"][1] == in_a_run_with(said, BY_SELECT) == results["exact"][1] | of_select
    assert results["weighted"][1] == in_a_run_with(said, BY_SELECT, WEIGHTED) == results["again"][1] | of_weights
    assert results["subset"][1] == in_a_run_with(said, BY_SELECT, SUBSET) == results["again"][1] | of_subset
    assert results["plain"][1] == results["again"][1]  # nothing is left of the weights or of the subset
    assert len(of_select) == 2 and len(of_weights) > 5 and len(of_subset) == 3
    propagated = {name for name, one in said.items() if PROPAGATION in one.written}
    assert len(propagated) > 3 and not propagated & results["exact"][1]


def test_input_files_are_documented(inputs, tmp_path):
    run(1, "embed", "--embedding", "hidden", "--model", inputs.model, "--pool", inputs.pool_file, "--out",
        tmp_path / "embedding.h5")
    with h5py.File(tmp_path / "ratings.h5", "w") as file:
        RatingFileWriter(file, ["1 or 2?"], np.array([7, 8], np.int32), "0" * 64).close()
    for title, path in (("Token files", inputs.pool_file), ("Embedding files", tmp_path / "embedding.h5"),
                        ("Rating files", tmp_path / "ratings.h5")):
        part = section("What is in it", within=section(title, "##"))
        with h5py.File(path) as file:
            assert set(re.findall(r"^\| `/(\w+)` \|", part, re.M)) == set(file)
            said = re.search(r"Root attributes are (.*?)\.\s", part, re.S)[1]
            assert set(file.attrs) >= set(re.findall(r"`(\w+)`", said)) >= {"format", "version"}
            assert f'"{file.attrs["format"]}"' in said


def test_the_python_example_reads_a_result(results, monkeypatch):
    (example,) = (block for language, block in FENCE.findall(FILES) if language == "python")
    path = results["ridge"][2]
    monkeypatch.chdir(path.parent)
    with h5py.File(path) as file:
        task = file["task/name"].asstr()[0]
    found = {}
    exec(example.replace("weights.h5", path.name).replace("gsm8k", task), found)
    assert len(found["rows"]) == (found["weight"] > 0).sum() and len(found[task]) == len(found["weight"])
