"""README.md and docs/ say what the program says of itself, writes and takes."""

import itertools
import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import h5py
import less_truth
import numpy as np
import optimizer_states
import pytest
from made_files import PROMPTS, write_embedding, write_ratings
from program import run
from tiny import Inputs, load_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text()
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README, FILES, OPTIONS = (PAGES[name] for name in ("README.md", "docs/files.md", "docs/options.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
OF_HELP = re.compile(r"^  (?:-h, )?--([a-z-]+)", re.M)
OF_JOB = re.compile(r"""add_argument\(\s*"--([a-z-]+)""")
COMMANDS = ("plan", "select", "embed")
# Options of other programs that the pages name.
FOREIGN = {"mpirun": {"oversubscribe"}, "srun": {"kill-on-bad-exit", "mpi", "nodes", "ntasks-per-node", "gpus-per-task"}, "docker": {"shm-size"}, "cmake": {"build"}}
REMOVED = {"--influence first-order", "--rank"}  # docs/options.md says what they are called now
ALWAYS, PROPAGATION, BY_SELECT = "always", "propagation", "`idistill_mpi select`"
WEIGHTS = "where anything looks at the weights"
SKETCHED = "but not `--propagation none --columns tasks`"


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
JOBS["jobs/gpu_check.sh"] = JOBS["jobs/gpu_check.py"] | {"bundle"}
JOBS["jobs/gpu_bundle.sh"] = {"out", "torch", "no-test"}


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

def section(title: str, level: str = "###", within: str = FILES) -> str:
    return re.search(rf"^{level} {title}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", within, re.M | re.S)[1]


def documented(title: str) -> dict[str, list[set[str]]]:
    """{name: what a run must all have to write it, of each one of several} of a section's tables of three columns and more: names are
    all code words of the first."""
    found = {}
    for names, *_, written, _ in (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in re.findall(r"^\| (`.*) \|$", section(title), re.M)):
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in found, name
            found[name] = [either(fact) for fact in written.split(", ")]
    return found


def either(fact: str) -> set[str]:
    """"`--option a` or `b`": with one of these."""
    first, *others = fact.split(" or `")
    return {first, *(f"{first.partition(' ')[0]} {other}" for other in others)}


def in_a_run_with(what: dict[str, list[set[str]]], facts: set[str]) -> set[str]:
    return {name for name, needed in what.items() if all(fact & {ALWAYS, *facts} for fact in needed)}


def without_timings(names) -> set[str]:
    return {name for name in names if not name.startswith("seconds_")}


def contents(path: Path) -> tuple[set[str], set[str]]:
    """Datasets and attributes."""
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, item: names.append(f"/{name}") if isinstance(item, h5py.Dataset) else None)
        return set(names), without_timings(file.attrs)


def option(name: str, value: str = "") -> str:
    return f"`--{name} {value}`" if value else f"`--{name}`"


def selecting(rule: str) -> set[str]:
    return {BY_SELECT, option("selection", rule)}


GRADIENT = {WEIGHTS, option("influence", "gradient")}
PROPAGATED = {PROPAGATION, SKETCHED, option("columns", "samples"), option("selection", "weighted")}
RIDGE = {option("propagation", "kernel-ridge"), option("landmarks", "auto"), option("embedding", "auto"), option("refine"),
         option("optimizer"), option("curvature", "hessian")}  # fmt: skip
RUNS = {  # {run: what it has, by the words of docs/files.md}
    "ridge": GRADIENT | PROPAGATED | RIDGE,
    "network": GRADIENT | PROPAGATED | {option("propagation", "network")},
    "exact": GRADIENT,
    "again": GRADIENT | selecting("round-robin"),
    "weighted": GRADIENT | selecting("weighted"),
    "subset": GRADIENT | selecting("facility-location"),
    "plain": GRADIENT | selecting("round-robin"),  # nothing is left of the weights or of the subset
    "delift": {WEIGHTS, option("influence", "delift")},
    "delift-se": {option("influence", "delift-se")},  # which looks at no weights
    "less": {WEIGHTS, option("influence", "less"), SKETCHED, option("columns", "samples"), option("optimizer")},
    "checkpoint": {option("influence", "less")},  # whose weights count alone
    "selectit": {WEIGHTS, option("influence", "selectit")},
}


def run_other_influences(directory: Path):
    """Every sample by each of them, of a pool whose samples can be joined."""
    (directory / "of_pairs").mkdir()
    pairs = Inputs(directory / "of_pairs", 40, 6, joints=True)
    samples = [*pairs.pool, *itertools.chain(*pairs.targets.values())]
    sentences = write_embedding(pairs.directory / "sentences.h5", [s.id for s in samples],
                                np.random.default_rng(3).normal(size=(len(samples), 8)))  # fmt: skip
    ratings = write_ratings(pairs.directory / "ratings.h5", {s.id: [s.tokens] * len(PROMPTS) for s in pairs.pool})
    checkpoint = less_truth.save_checkpoint(pairs.directory / "checkpoint", load_model(pairs.model), pairs.pool, 0).directory
    own = {
        "delift": [],
        "delift-se": ["--sentence-embedding", sentences],
        "less": ["--optimizer", checkpoint / "optimizer.safetensors"],
        "checkpoint": ["--checkpoint", f"{checkpoint}:2e-5", "--columns", "tasks"],
    }
    exact = ["--propagation", "none", "--selection", "top-k"]
    for name, options in own.items():
        influence = "less" if name == "checkpoint" else name
        run(2, *pairs.arguments(directory / f"{name}.h5", "--influence", influence, *options, *exact))
    run(2, "--influence", "selectit", "--model", pairs.model, "--pool", pairs.pool_file, "--ratings", ratings, *exact, "--out",
        directory / "selectit.h5")  # fmt: skip


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
    run_other_influences(directory)
    return {path.stem: (*contents(path), path) for path in directory.glob("*.h5")}


@pytest.mark.parametrize("title, place", [("Datasets", 0), ("Attributes", 1)])
def test_what_every_run_writes_is_documented(results, title, place):
    said = documented(title)
    assert any(name.startswith("seconds_") for name in said) == (title == "Attributes")
    said = {name: said[name] for name in without_timings(said)}
    assert set(results) == set(RUNS)
    for name, facts in RUNS.items():
        assert results[name][place] == in_a_run_with(said, facts), name
    assert set().union(*(found[place] for found in results.values())) == set(said)


def test_input_files_are_documented(inputs, tmp_path):
    run(1, "embed", "--embedding", "hidden", "--model", inputs.model, "--pool", inputs.pool_file, "--out",
        tmp_path / "embedding.h5")
    write_ratings(tmp_path / "ratings.h5", {"a": [np.zeros(3, np.int32)] * len(PROMPTS)})
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
