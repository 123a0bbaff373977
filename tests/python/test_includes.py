"""The house of docs/extending.md: which folder of the source may include which, and who knows a member's name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = [ROOT / "src", ROOT / "include" / "idistill"]

# A folder may include itself and these; src/*.cpp (the program) may include every one.
BASE = {"base"}
COMM = BASE | {"comm"}
DATA = COMM | {"data"}
OPTIONS = BASE | {"options"}
PLAN = {"base", "data", "plan"}
MODEL = DATA | OPTIONS | PLAN | {"model"}
WORK = DATA | PLAN | {"work"}
INFLUENCE = MODEL | WORK | {"io", "influence"}
SELECTION = COMM | OPTIONS | PLAN | {"influence", "selection"}
ALLOWED = {
    "base": BASE,
    "comm": COMM,
    "data": DATA,
    "options": OPTIONS,
    "plan": PLAN,
    "model": MODEL,
    "work": WORK,
    "io": DATA | PLAN | {"io"},
    "influence": INFLUENCE,
    "embedding": INFLUENCE | {"embedding"},
    "selection": SELECTION,
    "propagation": INFLUENCE | SELECTION | {"embedding", "propagation"},
    "stages": INFLUENCE | SELECTION | {"embedding", "propagation", "stages"},
}
# Of another family a selection knows plain data alone, and a plan nothing that opens files.
ONLY = {("selection", "influence"): {"idistill/influence/layout.hpp"},
        ("plan", "data"): {"idistill/data/rows.hpp", "idistill/data/work_unit.hpp"}}
SYSTEM = {"mpi.h": {"comm"}, "nccl.h": {"comm"}, "hdf5.h": {"data", "work", "io"}}
FAMILIES = ("influence", "embedding", "propagation", "selection")


def sources(folder):
    return [path for top in HERE for path in sorted((top / folder).rglob("*.?pp"))]


def includes(path):
    return re.findall(r'^#include ["<]([^">]+)[">]', path.read_text(), re.MULTILINE)


def folders():
    return sorted({path.name for top in HERE for path in top.iterdir() if path.is_dir()})


def test_every_folder_has_its_arrows():
    assert folders() == sorted(ALLOWED)


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_includes_go_one_way(folder):
    assert sources(folder), folder
    for path in sources(folder):
        for include in includes(path):
            if include in SYSTEM:
                assert folder in SYSTEM[include], f"{path}: {include}"
            if not include.startswith("idistill/"):
                continue
            other = include.split("/")[1]
            assert other in ALLOWED[folder], f"{path}: {include}"
            if other != folder and (folder, other) in ONLY:
                assert include in ONLY[folder, other], f"{path}: {include}"


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_arrows_have_no_circle(folder):
    above = [other for other in ALLOWED if other != folder and folder in ALLOWED[other]]
    assert not set(above) & ALLOWED[folder]


def names_of_members():
    """What the functions that members.cpp lists call themselves."""
    names = set()
    for family in FAMILIES:
        listed = set(re.findall(r"\b(\w+_member)\(\)", (ROOT / "src" / family / "members.cpp").read_text()))
        code = "".join(path.read_text() for path in sources(family))
        for function in listed:
            body = re.search(rf"^Member {function}\(\) \{{.*?^\}}", code, re.MULTILINE | re.DOTALL).group(0)
            name = re.search(r"\.(?:name|form) = (\w+|\"[^\"]*\")", body).group(1)
            if not name.startswith('"'):  # a constant beside it
                name = re.search(rf'{name} = ("[^"]*")', code).group(1)
            names.add(name.strip('"').partition(":")[0])
    return {name for name in names if " " not in name}


def test_members_are_listed():
    assert {"gradient", "kernel-ridge", "weighted", "round-robin", "top-k", "random", "jvp", "hidden"} <= names_of_members()


# What belongs to members of a family beside their names: enums of their settings.
ENUMS = ("Rule", "TopKBy", "Order", "Curvature", "SketchKind", "Normalize", "KernelChoice")
# Names that are words of the language too: found where a text is nothing else.
WORDS = {"gradient", "hidden", "random", "weighted"}


def outsiders():
    """Files that know families by their interface alone: the program, the stages, the options of a whole family."""
    top = [path for path in sorted((ROOT / "src").iterdir()) if path.suffix in (".cpp", ".hpp")]
    options = [path for family in FAMILIES for path in sources(family) if path.stem == "options" and path.parent.name == family]
    return [*top, *sources("stages"), *options]


def named_in(path):
    """Members and their enums that the code of a file names."""
    code = re.sub(r"//.*", "", path.read_text())
    texts = re.findall(r'"((?:[^"\\\n]|\\.)*)"', code)
    for name in names_of_members():
        whole = name in WORDS
        if name in texts or (not whole and any(re.search(rf"(?<![\w-]){name}(?![\w-])", text) for text in texts)):
            yield name
        if re.search(rf"\bmake_{name.replace('-', '_')}\b", code):
            yield f"make_{name}"
    for enum in ENUMS:
        if re.search(rf"\b{enum}::", code):
            yield enum


def test_the_run_fits_on_one_screen():
    assert (ROOT / "src" / "pipeline.cpp").read_text().count("\n") < 110


def test_nobody_outside_knows_a_member():
    """Neither the program nor the stages nor the options of a whole family name a member or what its settings can be."""
    assert {(str(path.relative_to(ROOT)), name) for path in outsiders() for name in named_in(path)} == set()


def test_members_do_not_know_each_other():
    """Settings are compared with a member's name in members.cpp and in the options of its own family alone."""
    allowed = {"members.cpp", "options.cpp", "settings.hpp"}
    for folder in ("plan", "work", "io", "model", "stages", *FAMILIES):
        for path in sources(folder):
            if path.name in allowed:
                continue
            code = re.sub(r"//.*", "", path.read_text())
            for name in ("kernel-ridge", "weighted", "round-robin", "top-k"):
                assert not re.search(rf'[!=]= *"{name}"', code), f"{path}: {name}"
