import datetime
import decimal
import json

import commands
import datasets
import export
import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from idistill import sample_files
from idistill.preparation import prepare
from idistill.result import Result
from idistill.rows import Place, Reading
from idistill.selected_samples import Found
from idistill.token_file import TokenFile
from preparing import without_digests, write_lines
from result_files import write_result

run, refused = commands.of(export)

POOL = [{"id": f"sample-{i}", "source": "ab"[i % 2], "prompt": f"höre {i}", "completion": "ja"} for i in range(6)]
NAMELESS = [{"prompt": row["prompt"], "completion": row["completion"]} for row in POOL]
SELECTED = [4, 1, 3]  # in order of selection
COLUMNS = [2, 0, -1]
WEIGHTS = [1.5, 0.5, 1.0]
SCORES = np.arange(12, dtype=np.float32).reshape(6, 2) / 8


@pytest.fixture
def result(tmp_path):
    return write_result(
        tmp_path / "weights.h5", ids=[row["id"] for row in POOL], sources=[row["source"] for row in POOL], scores=SCORES,
        tasks=["math", "chät"], columns=["m-0", "m-1", "c-0"], column_task=[0, 0, 1], selected=SELECTED,
        selected_columns=COLUMNS, weights=WEIGHTS,
    )  # fmt: skip


@pytest.fixture
def pool(tmp_path):
    return write_lines(tmp_path / "pool.jsonl", POOL)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepared_ids(pool, model):
    out = pool.with_suffix(".h5")
    prepare([pool], model("chatml"), out, max_length=64, max_bad_lines=1, workers=1)
    with TokenFile(out) as file:
        return file.ids


def write_selected(path, ids, selected):
    """A result of one target."""
    count = len(selected)
    return write_result(
        path, ids=ids, sources=["s"] * len(ids), scores=[[0.5]] * len(ids), tasks=["t"], columns=["t"], column_task=[0],
        selected=selected, selected_columns=[0] * count, weights=[1] * count,
    )  # fmt: skip


EXPECTED = [
    {
        **POOL[index],
        "idistill_rank": rank,
        "idistill_weight": WEIGHTS[rank],
        "idistill_effective_weight": WEIGHTS[rank],
        "idistill_influence": {"math": float(SCORES[index, 0]), "chät": float(SCORES[index, 1])},
        "idistill_task": ["chät", "math", None][rank],
        "idistill_column": ["c-0", "m-0", None][rank],
    }
    for rank, index in enumerate(SELECTED)
]


def test_json_lines(result, pool, tmp_path, monkeypatch, capsys):
    out = tmp_path / "selected.jsonl"
    run(monkeypatch, result, "--pool", pool, "--out", out)
    assert lines_of(out) == EXPECTED
    assert "höre" in out.read_text()
    assert "3 samples" in capsys.readouterr().out


@pytest.mark.parametrize("normalize,expected", [("cosine", [1.125, 1.5, 0.375]), ("none", WEIGHTS)])
def test_effective_weights_are_those_of_raw_losses(pool, tmp_path, monkeypatch, normalize, expected):
    """With cosine a weight counts for the loss over its gradient norm: 1.5/4, 0.5/1, 1/8, scaled to mean 1."""
    result = write_result(
        tmp_path / "weights.h5", ids=[row["id"] for row in POOL], sources=[row["source"] for row in POOL], scores=SCORES,
        tasks=["math", "code"], columns=["m", "c"], column_task=[0, 1], selected=SELECTED, selected_columns=[-1] * 3,
        weights=WEIGHTS, norms=[np.nan, 1, 16, 8, 4, 2], normalize=normalize,
    )  # fmt: skip
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")
    rows = lines_of(tmp_path / "selected.jsonl")
    assert [row["idistill_effective_weight"] for row in rows] == pytest.approx(expected)
    assert [row["idistill_weight"] for row in rows] == WEIGHTS


def test_parquet(result, pool, tmp_path, monkeypatch):
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "selected.parquet").to_pylist() == EXPECTED


def test_dataset(result, pool, tmp_path, monkeypatch):
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected")
    assert datasets.load_from_disk(str(tmp_path / "selected")).to_list() == EXPECTED
    assert "exists already" in refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected")


def test_pool_in_several_files_of_different_fields(result, tmp_path, monkeypatch):
    first = write_lines(tmp_path / "first.jsonl", POOL[:3])
    second = write_lines(tmp_path / "second.jsonl", [{**row, "licence": "CC BY"} for row in POOL[3:]])
    run(monkeypatch, result, "--pool", first, second, "--out", tmp_path / "selected.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "selected.parquet").to_pylist()
    assert [row["licence"] for row in rows] == ["CC BY", None, "CC BY"]


def test_ids_that_prepare_gave(model, tmp_path, monkeypatch):
    extra = {"at": datetime.datetime(2026, 3, 1), "bytes": b"\xff", "half": decimal.Decimal("0.5"), "nested": {"list": [1, None]}}
    table = pyarrow.Table.from_pylist([row | extra for row in NAMELESS])
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    for pool in (write_lines(tmp_path / "lines.jsonl", NAMELESS), tmp_path / "table.parquet", tmp_path / "saved"):
        ids = prepared_ids(pool, model)
        result = write_selected(tmp_path / "weights.h5", ids, [3, 0, 2])
        out = tmp_path / f"selected-{pool.stem}.jsonl"
        run(monkeypatch, result, "--pool", pool, "--out", out)
        rows = lines_of(out)
        assert [row["prompt"] for row in rows] == ["höre 3", "höre 0", "höre 2"]
        assert [row["id"] for row in rows] == [ids[3], ids[0], ids[2]]
        assert without_digests(ids)[0] == f"{pool.stem}-1"


@pytest.mark.parametrize("change", [
    lambda rows: [{"prompt": "new", "completion": "row"}, *rows],
    lambda rows: rows[1:],
    lambda rows: [row | {"completion": "nein"} for row in rows],
], ids=["inserted", "removed", "edited"])  # fmt: skip
def test_a_file_that_changed_since_it_was_prepared_is_refused(change, model, tmp_path, monkeypatch):
    pool = write_lines(tmp_path / "train.jsonl", NAMELESS)
    ids = prepared_ids(pool, model)
    result = write_selected(tmp_path / "weights.h5", ids, [4, 1])
    write_lines(pool, change(NAMELESS))
    message = refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")
    assert f"2 of the 2 selected ids are not in {pool}:\n  '{ids[1]}', '{ids[4]}'\n" in message
    assert "the file has moved or changed since it was prepared: prepare it again" in message
    assert list(tmp_path.glob("selected*")) == []


def test_files_of_one_stem_prepared_in_separate_calls(model, tmp_path, monkeypatch):
    for folder in ("math", "code"):
        (tmp_path / folder).mkdir()
    math = write_lines(tmp_path / "math" / "train.jsonl", NAMELESS[:3])
    code = write_lines(tmp_path / "code" / "train.jsonl", NAMELESS[3:])
    ids = [*prepared_ids(math, model), *prepared_ids(code, model)]
    assert without_digests(ids) == ["train-1", "train-2", "train-3"] * 2
    result = write_selected(tmp_path / "weights.h5", ids, [4, 1])
    monkeypatch.chdir(tmp_path / "math")  # how a path is written does not matter
    run(monkeypatch, result, "--pool", "train.jsonl", "--pool", "../code/train.jsonl", "--out", tmp_path / "selected.jsonl")
    assert [row["prompt"] for row in lines_of(tmp_path / "selected.jsonl")] == ["höre 4", "höre 1"]

    message = refused(monkeypatch, result, "--pool", code, "--out", tmp_path / "selected.jsonl")
    assert "1 of the 2 selected ids" in message and "every file that the pool was prepared from" in message
    message = refused(monkeypatch, result, "--pool", math, code, "train.jsonl", "--out", tmp_path / "selected.jsonl")
    assert f"{math}: given twice" in message


def test_files_of_one_stem_prepared_together(model, tmp_path, monkeypatch):
    given = []
    for folder, rows in (("math", NAMELESS[:3]), ("code", NAMELESS[:3])):
        (tmp_path / folder).mkdir()
        given.append(write_lines(tmp_path / folder / "train.jsonl", rows))
    prepare(given, model("chatml"), tmp_path / "pool.h5", max_length=64, max_bad_lines=0, workers=1)
    with TokenFile(tmp_path / "pool.h5") as file:
        ids = file.ids
    result = write_selected(tmp_path / "weights.h5", ids, [4, 1])
    run(monkeypatch, result, "--pool", tmp_path / "*" / "train.jsonl", "--out", tmp_path / "selected.jsonl")
    assert [row["id"] for row in lines_of(tmp_path / "selected.jsonl")] == [ids[4], ids[1]]
    assert without_digests([ids[4], ids[1]]) == ["code/train-2", "math/train-2"]
    result = write_selected(tmp_path / "weights.h5", ids, [4])  # whose file alone is given
    run(monkeypatch, result, "--pool", given[1], "--out", tmp_path / "selected.jsonl")
    assert [row["id"] for row in lines_of(tmp_path / "selected.jsonl")] == [ids[4]]


def test_options_that_say_how_to_read(model, tmp_path, monkeypatch):
    pool = write_lines(tmp_path / "pool.jsonl", [{"uid": f"u{i}", "Q": f"höre {i}", "A": "ja"} for i in range(3)])
    columns = {"id": "uid", "prompt": "Q", "completion": "A"}
    prepare([pool], model("chatml"), tmp_path / "pool.h5", 64, 0, 1, Reading(columns=columns))
    with TokenFile(tmp_path / "pool.h5") as file:
        assert file.ids == ["u0", "u1", "u2"]
    result = write_selected(tmp_path / "weights.h5", ["u0", "u1", "u2"], [2])
    given = ["--columns", ",".join(f"{name}={column}" for name, column in columns.items()), "--source", f"s={pool}"]
    run(monkeypatch, result, "--pool", tmp_path, "--out", tmp_path / "selected.jsonl", *given)
    assert [(row["uid"], row["id"], row["Q"]) for row in lines_of(tmp_path / "selected.jsonl")] == [("u2", "u2", "höre 2")]
    assert "1 of the 1 selected ids are not in" in refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / "other.jsonl")


def test_missing_ids_are_named_and_counted(result, tmp_path, monkeypatch):
    pool = write_lines(tmp_path / "pool.jsonl", [row for row in POOL if row["id"] not in ("sample-3", "sample-4")])
    message = refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")
    assert f"2 of the 3 selected ids are not in {pool}:\n  'sample-3', 'sample-4'\nGive every file" in message
    assert list(tmp_path.glob("selected*")) == []


def test_ids_that_are_there_several_times_are_named_with_all_places(result, pool, tmp_path, monkeypatch):
    again = write_lines(tmp_path / "again.jsonl", [POOL[1], POOL[0], POOL[0], POOL[1]])  # sample-0 was not selected
    message = refused(monkeypatch, result, "--pool", pool, again, "--out", tmp_path / "selected.jsonl")
    assert "1 of the 3 selected ids are in the pool's files several times" in message
    assert f"'sample-1' 3 times: {pool}: line 2, {again}: line 1, {again}: line 4" in message
    assert list(tmp_path.glob("selected*")) == []


def test_a_row_that_is_no_sample_does_not_count_as_one_of_its_id(result, tmp_path, monkeypatch):
    """prepare.py --max-bad-lines left the first out and took the second."""
    pool = write_lines(tmp_path / "pool.jsonl", [{"id": "sample-1", "text": "no conversation"}, *POOL])
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")
    assert lines_of(tmp_path / "selected.jsonl") == EXPECTED


def test_values_that_json_has_no_word_for(result, tmp_path, monkeypatch):
    noon = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)
    extra = {
        "time": noon, "day": noon.date(), "took": datetime.timedelta(seconds=90), "price": decimal.Decimal("12.50"),
        "text": b"h\xc3\xb6", "bytes": b"\xff\x00", "score": float("nan"), "nested": {"at": [noon]},
    }  # fmt: skip
    table = pyarrow.Table.from_pylist([row | extra for row in POOL])
    pyarrow.parquet.write_table(table.append_column("half", pyarrow.array(np.ones(6, np.float16))), tmp_path / "pool.parquet")
    run(monkeypatch, result, "--pool", tmp_path / "pool.parquet", "--out", tmp_path / "selected.jsonl")
    shown = {
        "time": "2026-03-01T12:00:00+00:00", "day": "2026-03-01", "took": 90.0, "price": 12.5, "text": "hö",
        "bytes": "/wA=", "score": None, "nested": {"at": ["2026-03-01T12:00:00+00:00"]}, "half": 1.0,
    }  # fmt: skip
    assert lines_of(tmp_path / "selected.jsonl") == [row | shown for row in EXPECTED]
    assert "NaN" not in (tmp_path / "selected.jsonl").read_text()


def test_numpy_values_and_keys_that_are_no_text():
    assert sample_files.as_json({1: np.float32(0.5), b"k": np.arange(2), None: np.str_("x")}) == {"1": 0.5, "k": [0, 1], "None": "x"}


def test_lone_surrogates_stay_as_they_were_spelled(result, tmp_path, monkeypatch):
    pool = write_lines(tmp_path / "pool.jsonl", [row | {"note": "\ud800"} for row in POOL])
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")
    assert lines_of(tmp_path / "selected.jsonl") == [row | {"note": "\ud800"} for row in EXPECTED]


def test_a_value_that_cannot_be_written_is_named_and_nothing_is_left(result, tmp_path, monkeypatch):
    row = Found(Place(tmp_path / "pool", "row", 3), {"id": "x", "picture": object()})
    with pytest.raises(ValueError, match="pool: row 3: field 'picture' is of the type object, which JSON cannot write"):
        sample_files.write([row], tmp_path / "selected.jsonl")
    rows = [row | {"level": "hard" if i == 1 else i} for i, row in enumerate(POOL)]  # sample-1 is selected second
    pool = write_lines(tmp_path / "pool.jsonl", rows)
    for out in ("selected.parquet", "selected"):
        message = refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / out)
        assert f"{pool}: line 2: field 'level' does not go into one column" in message
    empty = write_lines(tmp_path / "empty.jsonl", [row | {"meta": {}} for row in POOL])
    message = refused(monkeypatch, result, "--pool", empty, "--out", tmp_path / "selected.parquet")
    assert "'meta'" in message and "Export to .jsonl" in message
    assert list(tmp_path.glob("selected*")) == []


@pytest.mark.parametrize("name", ["selected.jsonl", "selected.parquet", "selected"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_an_interrupted_export_leaves_nothing(result, pool, tmp_path, monkeypatch, name, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("pathlib.Path.rename", fail)  # the last step: the temporary is complete
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        run(monkeypatch, result, "--pool", pool, "--out", tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool.jsonl", "weights.h5"]


@pytest.mark.parametrize("name", ["selected.jsonl", "selected"])
def test_what_a_killed_export_left_is_not_in_the_way(result, pool, tmp_path, monkeypatch, name):
    (tmp_path / f"{name}.partial").mkdir()
    (tmp_path / f"{name}.partial" / "half").write_text("of something")
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["pool.jsonl", "weights.h5", name])
    assert not (tmp_path / name / "half").exists()


def test_lines_that_prepare_left_out_are_passed_over_but_count(model, tmp_path, monkeypatch):
    lines = [json.dumps(row) for row in NAMELESS]
    pool = tmp_path / "train.jsonl"
    pool.write_text("\n".join([lines[0], "{", lines[1], lines[2], "", lines[3]]))
    ids = prepared_ids(pool, model)
    result = write_selected(tmp_path / "weights.h5", ids, [3, 1])
    run(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.jsonl")
    rows = lines_of(tmp_path / "selected.jsonl")
    assert [row["prompt"] for row in rows] == ["höre 3", "höre 1"]
    assert without_digests([row["id"] for row in rows]) == ["train-6", "train-3"]


def test_other_files_are_refused(pool, result, tmp_path, monkeypatch):
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    out = tmp_path / "selected.jsonl"
    assert "not a result of idistill_mpi" in refused(monkeypatch, tmp_path / "other.h5", "--pool", pool, "--out", out)
    assert "no such file" in refused(monkeypatch, tmp_path / "none.h5", "--pool", pool, "--out", out)
    (tmp_path / "half.h5").write_bytes(result.read_bytes()[:-512])
    assert "half.h5: cannot be read, it may be cut" in refused(monkeypatch, tmp_path / "half.h5", "--pool", pool, "--out", out)
    assert "nor another HDF5 file" in refused(monkeypatch, pool, "--pool", pool, "--out", out)
    assert "is a file of the pool" in refused(monkeypatch, result, "--pool", pool, "--out", pool)
    assert ".csv: expected .jsonl" in refused(monkeypatch, result, "--pool", pool, "--out", tmp_path / "selected.csv")


def test_scores_are_read_in_blocks(result, monkeypatch):
    with Result(result) as file:
        whole = file.selection()
        monkeypatch.setattr("idistill.output_file.BLOCK", 2)
        assert file.selection() == whole
