"""Inputs that prepare.py reads, and the token file that it leaves."""

import datetime
import decimal
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import chat_models
import commands
import h5py
import numpy as np
import prepare
import pytest
from conftest import JOBS
from idistill.first_places import FirstPlaces
from idistill.job_inputs import Refused
from idistill.rows import Origin, Place, Reading, Row, row_columns, sample_id
from idistill.token_file import TokenFile
from idistill.workers import CHUNK
from preparing import FORMS, HELLO, assistant, default_id, run, user, without_digests, write_lines
from transformers import AutoTokenizer

read, refused = commands.of(prepare)

# --- inputs -----------------------------------------------------------------------------------------------------------


def check_forms(path: Path):
    with TokenFile(path) as file:
        assert without_digests(file.ids) == ["a", "7", "in-3", "in-4", "in-5"]
        assert file.sources == ["s", "in", "in", "s", "in"]
        first = file[0][0].tolist()
        assert [file[i][0].tolist() == first for i in range(5)] == [True] * 4 + [False]


def test_forms_of_json_lines(model, tmp_path):
    run(write_lines(tmp_path / "in.jsonl", FORMS), model("chatml"), tmp_path / "out.h5")
    check_forms(tmp_path / "out.h5")


def test_instruction_and_input_are_two_paragraphs(model, tmp_path):
    run(write_lines(tmp_path / "in.jsonl", FORMS[4:]), model("chatml"), tmp_path / "out.h5")
    tokenizer = AutoTokenizer.from_pretrained(model("chatml"))
    with TokenFile(tmp_path / "out.h5") as file:
        assert "user\nhello\n\ngood night<|im_end|>" in tokenizer.decode(file[0][0])


def test_parquet(model, tmp_path):
    import pandas

    rows = [{**row, "id": str(row["id"])} if "id" in row else row for row in FORMS]
    pandas.DataFrame(rows).to_parquet(tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", model("chatml"), tmp_path / "out.h5")
    check_forms(tmp_path / "out.h5")


def test_saved_dataset(model, tmp_path):
    import datasets

    rows = [{**row, "id": str(row["id"])} if "id" in row else row for row in FORMS]
    names = {name for row in rows for name in row}
    datasets.Dataset.from_list([{**dict.fromkeys(names), **row} for row in rows]).save_to_disk(tmp_path / "in")
    run(tmp_path / "in", model("chatml"), tmp_path / "out.h5")
    check_forms(tmp_path / "out.h5")


def test_dataset_of_several_splits_names_them(model, tmp_path, monkeypatch):
    import datasets

    split = datasets.Dataset.from_list([HELLO])
    datasets.DatasetDict(train=split, test=split).save_to_disk(tmp_path / "in")
    message = refused(monkeypatch, tmp_path / "in", "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert str(tmp_path / "in" / "train") in message
    assert list(tmp_path.glob("out.h5*")) == []


@pytest.mark.parametrize(
    "line, problem",
    [
        ("{", "not valid JSON"),
        ("[1]", "found a JSON list, expected a JSON object"),
        ('{"text": "hello"}', "found 'text'; expected 'messages', or 'prompt' and 'completion', or"),
        ('{"messages": "hello"}', "'messages' is 'hello', expected a list"),
        ('{"messages": ["hello"]}', "message 1 is 'hello', expected an object"),
        ('{"messages": [{"role": "gpt", "content": "hello"}]}', "message 1 has the role 'gpt', expected one of"),
        ('{"messages": [{"role": "user"}]}', "message 1: 'content' is missing, expected a string"),
        ('{"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}', "message 1: 'tool_calls' has 1, expected an object"),
        ('{"prompt": "hello", "completion": 5}', "'completion' is 5, expected a string"),
        ('{"prompt": "hello", "completion": "\\ud800"}', "'completion' has a lone surrogate"),
        ('{"id": 1.5, "prompt": "hello", "completion": "world"}', "'id' is 1.5, expected a non-empty string"),
    ],
)
def test_bad_line_is_named_and_nothing_is_written(line, problem, model, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", [FORMS[0], "", line])
    message = refused(monkeypatch, source, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert f"{source}: line 3: {problem}" in message
    assert list(tmp_path.glob("out.h5*")) == []


def test_line_that_is_no_utf8(model, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "\xff", "completion": "world"}\n')
    with pytest.raises(Refused, match="line 1: not valid UTF-8"):
        run(tmp_path / "in.jsonl", model("chatml"), tmp_path / "out.h5")


def test_roles_that_the_template_refuses(model, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"messages": [assistant("hello"), user("world")]}])
    with pytest.raises(Refused, match=r"cannot render the conversation: .* must alternate.* \(roles: assistant, user\)"):
        run(source, model("llama2"), tmp_path / "out.h5")


def test_tolerated_bad_lines_are_listed_and_left_out(model, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [FORMS[2], "{", FORMS[2], "[]", FORMS[2]])
    with pytest.raises(Refused, match="line 4"):
        run(source, model("chatml"), tmp_path / "out.h5", max_bad_lines=1)
    summary = run(source, model("chatml"), tmp_path / "out.h5", max_bad_lines=2)
    assert f"{source}: line 2" in str(summary) and f"{source}: line 4" in str(summary)
    with TokenFile(tmp_path / "out.h5") as file:
        assert without_digests(file.ids) == ["in-1", "in-3", "in-5"]


def test_duplicate_id_names_both_places(model, tmp_path, monkeypatch):
    first = write_lines(tmp_path / "first.jsonl", [FORMS[1], FORMS[0]])
    second = write_lines(tmp_path / "second.jsonl", [FORMS[0]])
    message = refused(monkeypatch, first, second, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert f"{second}: line 1: the id 'a' is taken by {first}: line 2" in message
    assert list(tmp_path.glob("out.h5*")) == []


def test_tolerated_duplicates_are_left_out(model, tmp_path):
    rows = [FORMS[0], FORMS[1], FORMS[0], FORMS[2], FORMS[0]]
    source = write_lines(tmp_path / "in.jsonl", rows)
    summary = run(source, model("chatml"), tmp_path / "out.h5", max_bad_lines=2)
    with TokenFile(tmp_path / "out.h5") as file:
        assert without_digests(file.ids) == ["a", "7", "in-4"]
    assert [f"{bad.place.number}: {bad.problem.partition(';')[0]}" for bad in summary.bad] == [
        f"{line}: the id 'a' is taken by {source}: line 1" for line in (3, 5)
    ]


def test_first_places_of_many_ids(tmp_path):
    ids = [f"id-{i * i % 4001}" for i in range(4000)]
    places = FirstPlaces(len(ids))
    first = {}
    for number, sample_id in enumerate(ids, 1):
        place = Place(tmp_path / f"{number % 3}", ("line", "row")[number % 2], number)
        assert places.take(sample_id.encode(), place) == first.get(sample_id)
        first.setdefault(sample_id, place)
    assert 1 < len(first) < len(ids)


def test_file_that_grows_while_it_is_read(tmp_path):
    places = FirstPlaces(1)
    assert places.take(b"a", Place(tmp_path, "line", 1)) is None
    with pytest.raises(ValueError, match="grew while it was read"):
        places.take(b"b", Place(tmp_path, "line", 2))


def test_default_id_tells_place_and_content(model, tmp_path):
    line = json.dumps(HELLO)
    (tmp_path / "in.jsonl").write_bytes(f"{line}\n  {line} \r\n\n{json.dumps(FORMS[4])}".encode())
    run(tmp_path / "in.jsonl", model("chatml"), tmp_path / "out.h5")
    with TokenFile(tmp_path / "out.h5") as file:
        assert file.ids == [default_id("in", 1, line), default_id("in", 2, line), default_id("in", 4, json.dumps(FORMS[4]))]


def test_default_id_of_columns_is_the_same_in_every_process(tmp_path):
    def id_of(**columns):
        row = Row(Place(tmp_path, "row", 3), Origin("in", ("in",), "in", False, Reading()), columns)
        return sample_id(row, row_columns(row))

    assert id_of(a=1, b={"x": "\ud800", "y": None}) == default_id("in", 3, '{"a": 1, "b": {"x": "\\ud800", "y": null}}')
    assert id_of(b=2, a=1) == id_of(a=1, b=2) != id_of(a=2, b=1)
    assert id_of(a=1, id=None) == id_of(a=1)  # a column that other rows use
    assert id_of(picture=object()) == id_of(picture=object())  # whose repr() holds an address
    numbers = np.arange(5000)
    assert id_of(a=numbers) != id_of(a=np.where(numbers == 2500, 0, numbers))  # of which str() shows the ends
    values = [b"x", b"y", datetime.date(2026, 3, 1), datetime.timedelta(1), decimal.Decimal("0.10"), float("nan")]
    assert len({id_of(a=value) for value in values}) == len(values)


def test_files_of_one_stem_are_told_apart_by_their_folders(model, tmp_path):
    for folder in ("math", "code"):
        (tmp_path / folder).mkdir()
    math = write_lines(tmp_path / "math" / "train.jsonl", [HELLO, FORMS[2]])
    code = write_lines(tmp_path / "code" / "train.jsonl", [FORMS[4], FORMS[2]])
    run([math, code], model("chatml"), tmp_path / "out.h5")
    with TokenFile(tmp_path / "out.h5") as file:
        assert without_digests(file.ids) == ["math/train-1", "math/train-2", "code/train-1", "code/train-2"]
        assert file.sources == ["math/train"] * 2 + ["code/train"] * 2


def test_default_names_of_the_current_folder(model, tmp_path, monkeypatch):
    import datasets

    datasets.Dataset.from_list([HELLO]).save_to_disk(tmp_path / "train")
    monkeypatch.chdir(tmp_path / "train")
    run(Path("."), model("chatml"), tmp_path / "out.h5")
    with TokenFile(tmp_path / "out.h5") as file:
        assert (without_digests(file.ids), file.sources) == (["train-1"], ["train"])


def test_input_that_is_given_twice_or_is_the_output(model, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", FORMS)
    again = tmp_path / ".." / tmp_path.name / "in.jsonl"
    message = refused(monkeypatch, source, again, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert f"{source}: given twice" in message
    message = refused(monkeypatch, source, "--model", model("chatml"), "--out", source)
    assert f"{source}: is an input" in message
    assert len(source.read_text().splitlines()) == len(FORMS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_disk_that_is_full_at_the_end_leaves_nothing(model, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", FORMS)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("idistill.token_file.TokenFileWriter._flush", full)
    message = refused(monkeypatch, source, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert "no space left" in message
    assert list(tmp_path.glob("out.h5*")) == []


def test_model_without_chat_template(tmp_path, monkeypatch):
    tokenizer = chat_models.chatml()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    source = write_lines(tmp_path / "in.jsonl", FORMS)
    message = refused(monkeypatch, source, "--model", tmp_path / "model", "--out", tmp_path / "out.h5")
    assert "has no chat template" in message


def test_missing_input_and_missing_model(model, tmp_path, monkeypatch):
    absent = tmp_path / "absent"
    assert str(absent) in refused(monkeypatch, absent, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert str(absent) in refused(monkeypatch, absent, "--model", absent, "--out", tmp_path / "out.h5")
    assert list(tmp_path.glob("out.h5*")) == []


# --- the file ---------------------------------------------------------------------------------------------------------


def datasets(file) -> list[str]:
    names = []
    file.visititems(lambda name, found: names.append(name) if isinstance(found, h5py.Dataset) else None)
    return names


def test_layout_of_the_file(model, tmp_path):
    run(write_lines(tmp_path / "in.jsonl", FORMS), model("chatml"), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert {name: file[name].dtype.str for name in datasets(file)} == {
            "tokens": "<i4", "label_mask": "|u1", "offsets": "<i8", "id": "|O", "source": "|O",
            "joint/first": "<i4", "joint/kept": "<i4", "joint/tail": "<i4", "joint/offsets": "<i8",
        }  # fmt: skip
        assert file.attrs["format"] == "idistill-tokens" and file.attrs["version"] == 1
        assert file["offsets"][0] == 0 and file["offsets"][-1] == len(file["tokens"]) == len(file["label_mask"])
        assert len(file["offsets"]) == len(file["id"]) + 1 == len(file["source"]) + 1
        assert len(file["joint/offsets"]) == len(file["joint/first"]) + 1 == len(file["joint/kept"]) + 1 == len(file["offsets"])


def test_any_number_of_workers_writes_the_same(model, tmp_path):
    rows = [{"prompt": f"hello {i}", "completion": "world " * (i % 50)} for i in range(5 * CHUNK + 3)]
    source = write_lines(tmp_path / "in.jsonl", rows)
    read = []
    for workers in (1, 3):
        run(source, model("chatml"), tmp_path / "out.h5", workers=workers)
        with h5py.File(tmp_path / "out.h5") as file:
            read.append(({name: file[name][:].tolist() for name in datasets(file)}, dict(file.attrs)))
    assert read[0] == read[1]
    assert read[0][0]["id"] == [default_id("in", i, json.dumps(row)).encode() for i, row in enumerate(rows, 1)]


def test_killed_midway_leaves_no_file_and_no_worker(model, tmp_path):
    rows = [{"prompt": f"hello {i}", "completion": "good night " * 40} for i in range(40_000)]
    source, out = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.h5"
    command = [sys.executable, JOBS / "prepare.py", source, "--model", model("chatml"), "--out", out, "--workers", "2"]
    with subprocess.Popen(command) as process:
        partial = tmp_path / "out.h5.partial"
        while not partial.exists():
            assert process.poll() is None
            time.sleep(0.01)
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()

    deadline = time.monotonic() + 10
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(children) >= 2

    run(write_lines(source, FORMS), model("chatml"), out)  # what the killed run left is not in the way
    assert out.exists() and not partial.exists()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_inputs_and_models_that_hold_nothing(model, tmp_path):
    empty = write_lines(tmp_path / "empty.jsonl", [])
    folder = tmp_path / "folder"
    folder.mkdir()
    out = tmp_path / "out.h5"
    for inputs, directory, problem in [
        (empty, model("chatml"), r"empty\.jsonl: found no samples, expected at least one"),
        (folder, model("chatml"), r"folder: is a directory without a saved dataset and without files of samples"),
        (empty, folder, r"folder: no tokenizer that transformers can load"),
    ]:
        with pytest.raises(ValueError, match=problem):
            run(inputs, directory, out)
    assert list(tmp_path.glob("out.h5*")) == []
