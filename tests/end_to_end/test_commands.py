"""What surrounds a run: select, plan, help, reading a result with other tools."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from idistill.result import Result
from program import attributes, datasets, run

JOBS = Path(__file__).resolve().parents[2] / "jobs"
RIDGE = ["--landmarks", 60, "--embedding", "hidden"]
RULES = {
    "round-robin": ["--selection", "round-robin", "--select", 33, "--source-cap", "math=5", "web=20"],
    "top-k": ["--selection", "top-k", "--top-k-by", "max", "--select", "9%"],
    "tokens": ["--selection", "top-k", "--select-tokens", 444],
    "random": ["--selection", "random", "--select", 20, "--source-cap", "code=2"],
}


@pytest.fixture(scope="module")
def result(inputs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("result") / "weights.h5"
    run(2, *inputs.arguments(path, *RIDGE, *inputs.unit))
    return path


@pytest.mark.parametrize("rule", RULES)
def test_selecting_again_equals_a_fresh_run(inputs, tmp_path, result, rule):
    fresh, before = tmp_path / "fresh.h5", result.read_bytes()
    run(2, *inputs.arguments(fresh, *RIDGE, *inputs.unit, *RULES[rule]))
    expected = datasets(fresh)
    assert expected["selected/index"] != datasets(result)["selected/index"]
    for ranks in (1, 3):
        again = tmp_path / f"again-{ranks}.h5"
        run(ranks, "select", "--result", result, "--out", again, *RULES[rule])
        assert datasets(again) == expected
        found = attributes(again)
        settings = json.loads(found["selection_settings"])
        assert settings["selection"] == RULES[rule][1] and "landmarks" not in settings
        assert found["selected_tokens"] == attributes(fresh)["selected_tokens"]
        assert found["model_sha256"] == attributes(fresh)["model_sha256"]
    assert result.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again-1.h5", "again-3.h5", "fresh.h5"]


def test_another_seed_selects_other_random_samples(result, tmp_path):
    for seed in (1, 2):
        run(1, "select", "--result", result, "--out", tmp_path / f"{seed}.h5", "--selection", "random", "--seed", seed)
    assert datasets(tmp_path / "1.h5")["selected/index"] != datasets(tmp_path / "2.h5")["selected/index"]


def test_select_refuses_what_is_no_result(inputs, tmp_path):
    said = run(2, "select", "--result", inputs.pool_file, "--out", tmp_path / "again.h5", exit_code=3)
    assert f"{inputs.pool_file}: attribute format: expected idistill-weights, found idistill-tokens" in said
    assert not list(tmp_path.iterdir())


def test_plan_prints_and_writes_nothing(inputs, tmp_path):
    said = run(3, "plan", *inputs.arguments(tmp_path / "out.h5", *RIDGE, *inputs.unit))
    for part in ("pool 240 samples", "label targets", "label landmarks", "propagate", "Memory of one rank",
                 "Memory of one node with 3 ranks", "/dev/shm", "This run fits."):
        assert part in said, f"no {part!r} in:\n{said}"
    assert not list(tmp_path.iterdir()) and "is there already" not in said


def test_plan_says_that_the_result_is_there(inputs, result):
    arguments = inputs.arguments(result, *RIDGE, *inputs.unit)
    assert f"{result} is there already: the run needs --overwrite, or another --out." in run(2, "plan", *arguments)
    assert "is there already" not in run(2, "plan", *arguments, "--overwrite")


def test_help_and_version():
    for command, part in (([], "idistill_mpi plan"), (["plan"], "--landmarks"), (["select"], "--result")):
        said = run(2, *command, "--help")
        assert part in said and said.count("Usage:") == 1  # once, not once a rank
    assert run(1, "--version").startswith("idistill_mpi 0.")


def test_settings_file(inputs, tmp_path, result):
    settings = tmp_path / "run.toml"
    targets = ", ".join(f'"{name}={path}"' for name, path in inputs.target_files.items())
    settings.write_text(
        f'model = "{inputs.model}"\npool = ["{inputs.pool_file}"]\ntarget = [{targets}]\nembedding = "hidden"\n'
        f'landmarks = 60\nunit-flops = 2e7\nout = "{tmp_path}/from_file.h5"\n')
    run(2, "--config", settings)
    assert datasets(tmp_path / "from_file.h5") == datasets(result)


def test_h5dump_reads_a_result(result):
    header = subprocess.run(["h5dump", "-H", result], capture_output=True, text=True, check=True).stdout
    for name in ("influence", "weight", "score", "gradient_norm", "exact", "quarantine", "selected", "loo_r2"):
        assert f'"{name}"' in header
    weights = subprocess.run(["h5dump", "-d", "/selected/weight", result], capture_output=True, text=True, check=True).stdout
    assert "H5T_IEEE_F32LE" in weights


def test_export_writes_the_selected_samples(inputs, tmp_path, result):
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"id": s.id, "source": s.source, "prompt": s.id, "completion": "x"}) + "\n"
                            for s in inputs.pool))
    turns = tmp_path / "turns.h5"
    run(1, "select", "--result", result, "--out", turns, "--selection", "round-robin")
    subprocess.run([sys.executable, JOBS / "export.py", turns, "--pool", pool, "--out", tmp_path / "selected.jsonl"],
                   check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    with Result(turns) as file:
        ids, score = file.texts("selected/id"), file["score"]
        index, column = file["selected/index"], file["selected/column"]
        names = file.texts("column/name")
    assert [row["id"] for row in rows] == ids and [row["idistill_rank"] for row in rows] == list(range(len(ids)))
    assert [list(row["idistill_influence"].values()) for row in rows] == score[index].astype(float).tolist()
    assert [row["idistill_column"] for row in rows] == [names[c] for c in column]
