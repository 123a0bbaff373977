"""The house of docs/extending.md: which folder of the source may include which, and who knows a member's name."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = [ROOT / "src", ROOT / "include" / "idistill"]
PROGRAM = "the program"

# A folder may include itself and these; the program is src/*.cpp.
BASE = {"base"}
COMM = BASE | {"comm"}
DATA = COMM | {"data"}
OPTIONS = BASE | {"options"}
PLAN = {"base", "data", "plan"}
MODEL = DATA | OPTIONS | PLAN | {"model"}
WORK = DATA | PLAN | {"work"}
INFLUENCE = MODEL | WORK | {"io", "influence"}
SELECTION = COMM | OPTIONS | PLAN | {"io", "influence", "selection"}
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
    PROGRAM: INFLUENCE | SELECTION | {"embedding", "propagation", "stages"},
}
# Of these folders only these headers, which are public: of a family what is no member's, of a member where an arrow is
# its own, for a plan what opens no file.
STAGES = {
    "influence": {"influence.hpp", "layout.hpp", "members.hpp", "settings.hpp"},
    "embedding": {"embedding.hpp", "options.hpp", "parts.hpp", "settings.hpp"},
    "propagation": {"members.hpp", "options.hpp", "propagation.hpp", "settings.hpp", "trust.hpp"},
    "selection": {"budget.hpp", "members.hpp", "options.hpp", "selector.hpp", "settings.hpp", "similarity_options.hpp",
                  "task_means.hpp"},  # fmt: skip
}
ONLY = {
    "plan": {"data": {"rows.hpp", "work_unit.hpp"}},
    "selection": {"influence": {"layout.hpp"}},
    "embedding": {"influence": set()},
    # one file alone: it embeds by the sketches of another family's member
    "embedding/gradient_tail": {"influence": {"gradient/cost.hpp", "gradient/sketch.hpp", "gradient/sketch_shape.hpp"}},
    "propagation": {
        "influence": {"influence.hpp"},
        "embedding": {"embedding.hpp", "options.hpp", "parts.hpp"},
        "selection": {"options.hpp", "similarity.hpp"},  # what is learnt of pairs is a similarity
    },
    "stages": STAGES,
    PROGRAM: STAGES,
}
SYSTEM = {"mpi.h": {"comm"}, "nccl.h": {"comm"}, "hdf5.h": {"data", "work", "io"}}
# What a plan has nothing to do with: tensors, files, other ranks.
NOT_IN_PLAN = re.compile(r"(torch|ATen|c10|mpi|H5|hdf5|fstream\b|filesystem\b)")
FAMILIES = ("influence", "embedding", "propagation", "selection")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def sources(folder):
    return [path for top in HERE for path in sorted((top / folder).rglob("*.?pp"))]


def module(path):
    """Folder of the house that a file of src or include/idistill belongs to."""
    parts = path.relative_to(HERE[path.is_relative_to(HERE[1])]).parts
    return parts[0] if len(parts) > 1 else PROGRAM


def included(path, name):
    """The file of the house that `path` means by a name; None for one of elsewhere."""
    for top in (path.parent, ROOT / "src", ROOT / "include"):
        there = Path(os.path.normpath(top / name))
        if there.is_file() and any(there.is_relative_to(house) for house in HERE):
            return there
    return None


def refused_includes(path, text):
    """What the text of a file of the house includes and may not."""
    here = module(path)
    only = ONLY.get(f"{here}/{path.stem}", ONLY.get(here, {}))
    for quote, name in INCLUDE.findall(text):
        there = included(path, name)
        if there is None:
            generated = here == PROGRAM and name == "source_version.hpp"
            if (quote == '"' and not generated) or here not in SYSTEM.get(name, {here}):
                yield name
            elif here == "plan" and NOT_IN_PLAN.match(name):
                yield name
            continue
        other = module(there)
        if other == here:
            continue
        public = {HERE[1] / other / header for header in only.get(other, ())}
        if other not in ALLOWED[here] or (other in only and there not in public):
            yield name


def reached(path, seen):
    """Adds the files of the house that `path` includes, and theirs, to `seen`."""
    seen.add(path)
    for _, name in INCLUDE.findall(path.read_text()):
        there = included(path, name)
        if there is not None and there not in seen:
            reached(there, seen)
    return seen


def folders():
    return sorted({path.name for top in HERE for path in top.iterdir() if path.is_dir()})


def test_every_folder_has_its_arrows():
    assert sorted([*folders(), PROGRAM]) == sorted(ALLOWED)


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_includes_go_one_way(folder):
    paths = sources(folder) if folder != PROGRAM else sorted(HERE[0].glob("*.?pp"))
    assert paths, folder
    assert [(str(path), name) for path in paths for name in refused_includes(path, path.read_text())] == []


@pytest.mark.parametrize(
    "path, include",
    [
        ("src/stages/select.cpp", '#include "idistill/influence/gradient/sketch.hpp"'),  # a member's folder
        ("src/stages/select.cpp", '  #  include "idistill/selection/weighted.hpp"'),  # a member's header, indented
        ("src/stages/select.cpp", "#include <idistill/propagation/kernel_ridge.hpp>"),
        ("src/stages/select.cpp", '#include "../influence/gradient/plan.hpp"'),  # relative, upward
        ("src/stages/select.cpp", '#include "selection/rounds.hpp"'),  # from src
        ("src/pipeline.cpp", '#include "influence/gradient/plan.hpp"'),
        ("src/pipeline.cpp", '#include "idistill/selection/weighted.hpp"'),
        ("src/embedding/gradient_tail.cpp", '#include "idistill/influence/gradient/passes.hpp"'),
        ("src/embedding/jvp.cpp", '#include "idistill/influence/gradient/sketch.hpp"'),
        ("src/embedding/jvp.cpp", '#include "../influence/gradient/places.hpp"'),
        ("src/propagation/trust.cpp", '#include "idistill/influence/gradient/sketch.hpp"'),
        ("src/model/head.cpp", '#include "../stages/run.hpp"'),
        ("src/base/error.cpp", '#include "../model/head.hpp"'),
        ("src/stages/select.cpp", '#include "nowhere.hpp"'),
        ("src/stages/select.cpp", "\t#include <mpi.h>"),
        ("src/model/head.cpp", "#include<hdf5.h>"),
        ("src/plan/plan.cpp", "#include <torch/types.h>"),
        ("include/idistill/plan/plan.hpp", "#  include <ATen/ATen.h>"),
        ("src/plan/plan.cpp", "#include <H5public.h>"),
        ("src/plan/plan.cpp", "#include <hdf5_hl.h>"),
        ("src/plan/plan.cpp", "#include <mpi.h>"),
        ("src/plan/plan.cpp", "#include <fstream>"),
        ("src/plan/plan.cpp", "#include <filesystem>"),
        ("src/plan/plan.cpp", '#include "idistill/data/token_file.hpp"'),
        ("src/plan/plan.cpp", '#include "../options/toml.hpp"'),
    ],
)
def test_an_include_against_the_arrows_is_refused(path, include):
    assert len(list(refused_includes(ROOT / path, f"#include <vector>\n{include}  // why\n"))) == 1


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


def test_what_a_plan_includes_knows_no_tensor_file_or_rank():
    for path in set().union(*(reached(path, set()) for path in sources("plan"))):
        for _, name in INCLUDE.findall(path.read_text()):
            assert not NOT_IN_PLAN.match(name), f"{path}: {name}"


def test_members_are_listed():
    assert {"facility-location", "facility-location-mi", "facility-location-cg", "gradient", "kernel-ridge", "weighted", "round-robin", "top-k", "random", "jvp", "hidden"} <= names_of_members()


# What belongs to members of a family beside their names: enums of their settings.
ENUMS = ("Rule", "Greedy", "FacilityForm", "TopKBy", "Order", "Curvature", "SketchKind", "Normalize", "KernelChoice")
# Names that are words of the language too: found where a text is nothing else.
WORDS = {"gradient", "hidden", "less", "random", "weighted"}


def outsiders():
    """Files that know families by their interface alone: the program, the stages, the options of a whole family."""
    top = [path for path in sorted((ROOT / "src").iterdir()) if path.suffix in (".cpp", ".hpp")]
    options = [path for family in FAMILIES for path in sources(family) if path.stem == "options" and path.parent.name == family]
    return [*top, *sources("stages"), *options]


def named_in(text):
    """Members and their enums that the code of a file names."""
    code = re.sub(r"//.*", "", text)
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


def compared_in(text):
    """Members whose names the code of a file compares something with, on either side."""
    code = re.sub(r"//.*", "", text)
    for name in names_of_members():
        if re.search(rf'[!=]=\s*(std::string\w*[({{])?"{name}:?"|"{name}:?"\w*[)}}]?\s*[!=]=', code):
            yield name


def test_the_run_fits_on_one_screen():
    assert (ROOT / "src" / "pipeline.cpp").read_text().count("\n") < 110


def test_nobody_outside_knows_a_member():
    """Neither the program nor the stages nor the options of a whole family name a member or what its settings can be."""
    found = {(str(path.relative_to(ROOT)), name) for path in outsiders() for name in named_in(path.read_text())}
    assert found == set()


def test_members_do_not_know_each_other():
    """Settings are compared with a member's name in members.cpp and in the options of its own family alone."""
    for folder in ("plan", "work", "io", "model", "stages", *FAMILIES):
        for path in sources(folder):
            if folder not in FAMILIES or path.name not in {"members.cpp", "options.cpp", "settings.hpp"}:
                assert list(compared_in(path.read_text())) == [], path


@pytest.mark.parametrize(
    "code, name",
    [
        ('if (member == "weighted") return;', "weighted"),
        ('if ("weighted" == member) return;', "weighted"),
        ('return "top-k" != settings.member;', "top-k"),
        ('const bool same = name ==\n    "kernel-ridge";', "kernel-ridge"),
        ('return std::string("random") == name;', "random"),
        ('return name == std::string_view{"hidden"};', "hidden"),
    ],
)
def test_a_comparison_with_a_member_is_seen(code, name):
    assert list(compared_in(code)) == [name]
    assert name in named_in(code)


def test_a_member_that_is_only_spoken_of_is_not_compared():
    assert list(compared_in('refuse("weighted");  // == "weighted"\nif (name == "weights") return "jvp";')) == []
