import json
import sys

import export
import h5py
import numpy as np
import pytest
import show_selection
from result_file import read_selection
from token_file import TokenFileWriter

POOL = [{"id": f"sample-{i}", "source": "ab"[i % 2], "prompt": f"höre {i}", "completion": "ja"} for i in range(6)]
SELECTED = [4, 1, 3]  # in order of selection
COLUMNS = [2, 0, -1]
WEIGHTS = [1.5, 0.5, 1.0]
SCORES = np.arange(12, dtype=np.float32).reshape(6, 2) / 8


def fixed_length(values):
    """UTF-8 strings of one length, as idistill_mpi writes them."""
    encoded = [value.encode() for value in values]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded))))


@pytest.fixture
def result(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["format"] = "idistill-weights"
        file["score"] = SCORES
        file["task/name"] = fixed_length(["math", "chät"])
        file["column/name"] = fixed_length(["m-0", "m-1", "c-0"])
        file["column/task"] = np.array([0, 0, 1], np.int32)
        file["selected/index"] = np.array(SELECTED, np.int64)
        file["selected/id"] = fixed_length([POOL[i]["id"] for i in SELECTED])
        file["selected/weight"] = np.array(WEIGHTS, np.float32)
        file["selected/column"] = np.array(COLUMNS, np.int32)
    return tmp_path / "weights.h5"


@pytest.fixture
def pool(tmp_path):
    return write_lines(tmp_path / "pool.jsonl", POOL)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
    export.main()


def refused(monkeypatch, *arguments) -> str:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    return str(ended.value)


EXPECTED = [
    {
        **POOL[index],
        "idistill_rank": rank,
        "idistill_weight": WEIGHTS[rank],
        "idistill_influence": {"math": float(SCORES[index, 0]), "chät": float(SCORES[index, 1])},
        "idistill_task": ["chät", "math", None][rank],
        "idistill_column": ["c-0", "m-0", None][rank],
    }
    for rank, index in enumerate(SELECTED)
]


def test_json_lines(result, pool, tmp_path, monkeypatch, capsys):
    out = tmp_path / "selected.jsonl"
    run(monkeypatch, result, "--pool", pool, "--out", out)
    text = out.read_text()
    assert [json.loads(line) for line in text.splitlines()] == EXPECTED
    assert "höre" in text
    assert "3 samples" in capsys.readouterr().out


def test_parquet(result, pool, tmp_path, monkeypatch):
    import pyarrow.parquet

    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "selected.parquet").to_pylist() == EXPECTED


def test_dataset(result, pool, tmp_path, monkeypatch):
    import datasets

    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected")
    assert datasets.load_from_disk(str(tmp_path / "selected")).to_list() == EXPECTED
    assert "exists already" in refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected")


def test_pool_in_several_files_of_different_fields(result, tmp_path, monkeypatch):
    import pyarrow.parquet

    first = write_lines(tmp_path / "first.jsonl", POOL[:3])
    second = write_lines(tmp_path / "second.jsonl", [{**row, "licence": "CC BY"} for row in POOL[3:]])
    run(monkeypatch, result, "--pool", first, second, "--out", tmp_path / "selected.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "selected.parquet").to_pylist()
    assert [row["licence"] for row in rows] == ["CC BY", None, "CC BY"]


def test_ids_that_prepare_gave(result, tmp_path, monkeypatch):
    lines = [{key: value for key, value in row.items() if key != "id"} for row in POOL]
    pool = write_lines(tmp_path / "sample.jsonl", lines)  # ids sample-1 to sample-6
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["höre 3", "höre 0", "höre 2"]
    assert [row["id"] for row in rows] == ["sample-4", "sample-1", "sample-3"]


def test_missing_id_is_named(result, tmp_path, monkeypatch):
    pool = write_lines(tmp_path / "pool.jsonl", [row for row in POOL if row["id"] != "sample-3"])
    message = refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")
    assert f"'sample-3' is not in {pool} (1 of 3 are missing)" in message
    assert list(tmp_path.glob("selected*")) == []


def test_id_that_is_there_twice_names_both_places(result, pool, tmp_path, monkeypatch):
    again = write_lines(tmp_path / "again.jsonl", [POOL[1]])
    message = refused(monkeypatch, result, "--pool", pool, again, "--out", tmp_path / "selected.jsonl")
    assert f"{again}: line 1: the id 'sample-1' is also at {pool}: line 2" in message


def test_lines_that_prepare_left_out_are_passed_over(result, pool, tmp_path, monkeypatch):
    with open(pool, "a") as lines:
        lines.write("{\n")
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")


def test_other_files_are_refused(pool, result, tmp_path, monkeypatch):
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    out = tmp_path / "selected.jsonl"
    assert "not a result of idistill_mpi" in refused(monkeypatch, tmp_path / "other.h5", "--pool", pool, "--out", out)
    assert ".csv: expected .jsonl" in refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.csv")


def test_scores_are_read_in_blocks(result, monkeypatch):
    whole = read_selection(result)
    monkeypatch.setattr("result_file.BLOCK", 2)
    assert read_selection(result) == whole


def test_table_of_shares(result, tmp_path, monkeypatch, capsys):
    with TokenFileWriter(tmp_path / "pool.h5", "f" * 64, 8) as writer:
        for row in POOL:
            writer.append(row["id"], row["source"], np.zeros(1, np.int32), np.zeros(1, np.uint8))
    monkeypatch.setattr(sys, "argv", ["show_selection.py", str(result), "--pool", str(tmp_path / "pool.h5")])
    show_selection.main()
    shown = capsys.readouterr().out
    assert "target chät: 1 samples selected" in shown
    assert ["a", "50.0%", "100.0%", "█" * 40] in [line.split() for line in shown.splitlines()]
