import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import chat_models
import h5py
import numpy as np
import prepare
import pytest
from chat_labels import CUT_OFF, DATE, NO_ASSISTANT, NO_MESSAGES, NO_TEXT
from conftest import JOBS
from samples import file_names
from token_file import TokenFile
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Directory of a tiny model's tokenizer, by the name of its family."""
    saved = {name: chat_models.save(name, tmp_path_factory.mktemp(name)) for name in chat_models.ALL}
    return saved.__getitem__


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


MULTI_TURN = [
    user("What is the capital of France?"),
    assistant("Paris."),
    user("Thank you"),
    assistant("def f(x):\n    return x + 1\n\n\nprint(f(2)) 🙂"),
]


def write_lines(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run(inputs, model, out, max_length=2048, max_bad_lines=0, workers=2):
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return prepare.prepare(inputs, model, out, max_length, max_bad_lines, workers)


def run_command(monkeypatch, *arguments) -> str:
    """The message that the program ends with."""
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        prepare.main()
    return str(ended.value)


def labelled_runs(tokenizer, tokens, mask) -> list[str]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask, [0])).astype(int)))
    return [tokenizer.decode(tokens[start:end]) for start, end in edges.reshape(-1, 2)]


# --- tokens and labels ------------------------------------------------------------------------------------------------

CONVERSATIONS = {
    "one turn": [user("hello"), assistant("hello world")],
    "multi-turn": MULTI_TURN,
    "spaces around": [user(" hello "), assistant("hello  world \n")],
    "text of the template": [user("Say <|im_end|> or </s>"), assistant("assistant\nuser [INST] hello")],
    "repeated text": [user("hello"), assistant("hello"), user("hello"), assistant("hello")],
    "no ASCII": [user("你好"), assistant("你好，世界。")],
}


@pytest.mark.parametrize("family", chat_models.ALL)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_tokens_are_those_of_apply_chat_template(family, name, model, tmp_path):
    run(write_lines(tmp_path / "in.jsonl", [{"messages": CONVERSATIONS[name]}]), model(family), tmp_path / "out.h5")
    expected = AutoTokenizer.from_pretrained(model(family)).apply_chat_template(
        CONVERSATIONS[name], date_string=DATE, return_dict=False
    )
    with TokenFile(tmp_path / "out.h5") as file:
        assert file[0][0].tolist() == expected


@pytest.mark.parametrize(
    "family, end, strip",
    [("chatml", "<|im_end|>", False), ("llama3", "<|eot_id|>", True), ("llama2", " </s>", True)],
)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_only_assistant_text_and_its_end_of_turn_carry_labels(family, end, strip, name, model, tmp_path):
    messages = CONVERSATIONS[name]
    run(write_lines(tmp_path / "in.jsonl", [{"messages": messages}]), model(family), tmp_path / "out.h5")
    texts = [message["content"] for message in messages if message["role"] == "assistant"]
    tokenizer = AutoTokenizer.from_pretrained(model(family))
    with TokenFile(tmp_path / "out.h5") as file:
        assert labelled_runs(tokenizer, *file[0]) == [(text.strip() if strip else text) + end for text in texts]


def test_token_across_the_start_of_the_text_carries_a_label(model, tmp_path):
    row = {"messages": [user("hello"), assistant("\n  world")]}
    run(write_lines(tmp_path / "in.jsonl", [row]), model("chatml"), tmp_path / "out.h5")
    tokenizer = AutoTokenizer.from_pretrained(model("chatml"))
    with TokenFile(tmp_path / "out.h5") as file:
        assert labelled_runs(tokenizer, *file[0]) == ["\n\n  world<|im_end|>"]  # the first newline is the template's


def test_template_that_moves_reasoning(model, tmp_path):
    think = "<think>\nhello\n</think>\n\n"
    rows = [
        {"messages": [user("hello"), assistant(think + "world")]},
        {"messages": [user("hello"), assistant(think + "world"), user("good"), assistant(think + "night")]},
        {"messages": [user("hello"), assistant("world"), user("good"), assistant("night")]},
    ]
    run(write_lines(tmp_path / "in.jsonl", rows), model("reasoning"), tmp_path / "out.h5")
    tokenizer = AutoTokenizer.from_pretrained(model("reasoning"))
    with TokenFile(tmp_path / "out.h5") as file:
        assert labelled_runs(tokenizer, *file[0]) == [think + "world<|im_end|>"]
        assert labelled_runs(tokenizer, *file[1]) == ["world<|im_end|>", think + "night<|im_end|>"]
        assert labelled_runs(tokenizer, *file[2]) == ["world<|im_end|>", "night<|im_end|>"]


def test_template_that_hides_the_text_is_a_bad_line(model, tmp_path):
    directory = tmp_path / "model"
    tokenizer = chat_models.chatml()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
    tokenizer.save_pretrained(directory)
    source = write_lines(tmp_path / "in.jsonl", [{"messages": [user("hello"), assistant("world")]}])
    with pytest.raises(prepare.Refused, match=r"line 1: the text of message 2 \(assistant\) cannot be located"):
        run(source, directory, tmp_path / "out.h5")


def test_truncation_keeps_the_head_and_is_counted(model, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"messages": MULTI_TURN}])
    run(source, model("chatml"), tmp_path / "whole.h5")
    with TokenFile(tmp_path / "whole.h5") as file:
        tokens, mask = file[0]
    length = int(np.flatnonzero(mask)[2])
    summary = run(source, model("chatml"), tmp_path / "cut.h5", max_length=length)
    with TokenFile(tmp_path / "cut.h5") as file:
        assert file[0][0].tolist() == tokens[:length].tolist()
        assert file[0][1].tolist() == mask[:length].tolist()
        assert file.attributes["max_length"] == length
    assert str(summary).splitlines()[-1].split() == ["total", "1", str(length), "2", "1", "0"]


def test_samples_without_labels_are_kept_and_their_reasons_counted(model, tmp_path):
    rows = [
        {"messages": []},
        {"messages": [user("hello")]},
        {"messages": [user("hello"), assistant("")]},
        {"messages": [user("hello"), assistant(" \n")]},
        {"messages": [user("hello " * 50), assistant("world")]},
        {"prompt": "hello", "completion": "world"},
    ]
    summary = run(write_lines(tmp_path / "in.jsonl", rows), model("chatml"), tmp_path / "out.h5", max_length=60)
    with TokenFile(tmp_path / "out.h5") as file:
        assert [bool(file[i][1].any()) for i in range(len(file))] == [False] * 5 + [True]
        assert len(file[0][0]) == 0
    shown = str(summary)
    assert "will be quarantined: 5" in shown
    for reason, count in [(NO_MESSAGES, 1), (NO_ASSISTANT, 1), (NO_TEXT, 2), (CUT_OFF, 1)]:
        assert f"  {count}  {reason}" in shown


# --- inputs -----------------------------------------------------------------------------------------------------------

FORMS = [
    {"id": "a", "source": "s", "messages": [user("hello"), assistant("world")]},
    {"id": 7, "prompt": "hello", "completion": "world"},
    {"instruction": "hello", "input": "", "output": "world"},
    {"instruction": "hello", "output": "world", "source": "s"},
    {"instruction": "hello", "input": "good night", "output": "world"},
]


def check_forms(path: Path):
    with TokenFile(path) as file:
        assert file.ids == ["a", "7", "in-3", "in-4", "in-5"]
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

    split = datasets.Dataset.from_list([{"prompt": "hello", "completion": "world"}])
    datasets.DatasetDict(train=split, test=split).save_to_disk(tmp_path / "in")
    message = run_command(monkeypatch, tmp_path / "in", "--model", model("chatml"), "--out", tmp_path / "out.h5")
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
        ('{"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}', "message 1 has 'tool_calls'"),
        ('{"prompt": "hello", "completion": 5}', "'completion' is 5, expected a string"),
        ('{"prompt": "hello", "completion": "\\ud800"}', "'completion' has a lone surrogate"),
        ('{"id": 1.5, "prompt": "hello", "completion": "world"}', "'id' is 1.5, expected a non-empty string"),
    ],
)
def test_bad_line_is_named_and_nothing_is_written(line, problem, model, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", [FORMS[0], "", line])
    message = run_command(monkeypatch, source, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert f"{source}: line 3: {problem}" in message
    assert list(tmp_path.glob("out.h5*")) == []


def test_line_that_is_no_utf8(model, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "\xff", "completion": "world"}\n')
    with pytest.raises(prepare.Refused, match="line 1: not valid UTF-8"):
        run(tmp_path / "in.jsonl", model("chatml"), tmp_path / "out.h5")


def test_roles_that_the_template_refuses(model, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"messages": [assistant("hello"), user("world")]}])
    with pytest.raises(prepare.Refused, match=r"refuses the roles \(assistant, user\): .* must alternate"):
        run(source, model("llama2"), tmp_path / "out.h5")


def test_tolerated_bad_lines_are_listed_and_left_out(model, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [FORMS[2], "{", FORMS[2], "[]", FORMS[2]])
    with pytest.raises(prepare.Refused, match="line 4"):
        run(source, model("chatml"), tmp_path / "out.h5", max_bad_lines=1)
    summary = run(source, model("chatml"), tmp_path / "out.h5", max_bad_lines=2)
    assert f"{source}: line 2" in str(summary) and f"{source}: line 4" in str(summary)
    with TokenFile(tmp_path / "out.h5") as file:
        assert file.ids == ["in-1", "in-3", "in-5"]


def test_duplicate_id_names_both_places(model, tmp_path, monkeypatch):
    first = write_lines(tmp_path / "first.jsonl", [FORMS[1], FORMS[0]])
    second = write_lines(tmp_path / "second.jsonl", [FORMS[0]])
    message = run_command(monkeypatch, first, second, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert f"{second}: line 1: the id 'a' is taken by {first}: line 2" in message
    assert list(tmp_path.glob("out.h5*")) == []


def test_tolerated_duplicates_are_left_out(model, tmp_path):
    rows = [FORMS[0], FORMS[1], FORMS[0], FORMS[2], FORMS[0]]
    source = write_lines(tmp_path / "in.jsonl", rows)
    summary = run(source, model("chatml"), tmp_path / "out.h5", max_bad_lines=2)
    with TokenFile(tmp_path / "out.h5") as file:
        assert file.ids == ["a", "7", "in-4"]
    assert [f"{bad.place.number}: {bad.problem.partition(';')[0]}" for bad in summary.bad] == [
        f"{line}: the id 'a' is taken by {source}: line 1" for line in (3, 5)
    ]


def test_first_places_of_many_ids(tmp_path):
    ids = [f"id-{i * i % 4001}" for i in range(4000)]
    places = prepare.FirstPlaces(len(ids))
    first = {}
    for number, sample_id in enumerate(ids, 1):
        place = prepare.Place(tmp_path / f"{number % 3}", ("line", "row")[number % 2], number)
        assert places.take(sample_id, place) == first.get(sample_id)
        first.setdefault(sample_id, place)
    assert 1 < len(first) < len(ids)


def test_file_that_grows_while_it_is_read(tmp_path):
    places = prepare.FirstPlaces(1)
    assert places.take("a", prepare.Place(tmp_path, "line", 1)) is None
    with pytest.raises(ValueError, match="grew while it was read"):
        places.take("b", prepare.Place(tmp_path, "line", 2))


def test_files_of_one_stem_are_called_after_their_folders(model, tmp_path):
    row = {"prompt": "hello", "completion": "world"}
    places = ["math/train.jsonl", "code/train.jsonl", "other.jsonl", "old/code/train.jsonl"]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    run([write_lines(tmp_path / place, [row]) for place in places], model("chatml"), tmp_path / "out.h5")
    names = ["math/train", f"{tmp_path.name}/code/train", "other", "old/code/train"]
    with TokenFile(tmp_path / "out.h5") as file:
        assert file.ids == [f"{name}-1" for name in names]
        assert file.sources == names


@pytest.mark.parametrize(
    "paths, names",
    [
        (["a.jsonl", "x/b.parquet"], ["a", "b"]),
        (["x/t.jsonl", "y/t.jsonl"], ["x/t", "y/t"]),
        (["p/x/t.jsonl", "q/x/t.jsonl", "y/t.parquet"], ["p/x/t", "q/x/t", "y/t"]),
        (["x/t.jsonl", "x/t.parquet", "x/t"], ["t.jsonl", "t.parquet", "t"]),
        (["x/../x/t.jsonl", "y/t.jsonl"], ["x/t", "y/t"]),
    ],
)
def test_names_of_files(paths, names):
    paths = list(map(Path, paths))
    assert file_names(paths) == dict(zip(paths, names))
    assert file_names(paths[::-1]) == dict(zip(paths, names))


def test_input_that_is_given_twice_or_is_the_output(model, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", FORMS)
    again = tmp_path / "x" / ".." / "in.jsonl"
    message = run_command(monkeypatch, source, again, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert f"{source}: given twice" in message
    message = run_command(monkeypatch, source, "--model", model("chatml"), "--out", source)
    assert f"{source}: is an input" in message
    assert len(source.read_text().splitlines()) == len(FORMS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_disk_that_is_full_at_the_end_leaves_nothing(model, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", FORMS)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("token_file.TokenFileWriter._flush", full)
    message = run_command(monkeypatch, source, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert "no space left" in message
    assert list(tmp_path.glob("out.h5*")) == []


def test_model_without_chat_template(tmp_path, monkeypatch):
    tokenizer = chat_models.chatml()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    source = write_lines(tmp_path / "in.jsonl", FORMS)
    message = run_command(monkeypatch, source, "--model", tmp_path / "model", "--out", tmp_path / "out.h5")
    assert "has no chat template" in message


def test_missing_input_and_missing_model(model, tmp_path, monkeypatch):
    absent = tmp_path / "absent"
    assert str(absent) in run_command(monkeypatch, absent, "--model", model("chatml"), "--out", tmp_path / "out.h5")
    assert str(absent) in run_command(monkeypatch, absent, "--model", absent, "--out", tmp_path / "out.h5")
    assert list(tmp_path.glob("out.h5*")) == []


# --- the file ---------------------------------------------------------------------------------------------------------


def test_layout_of_the_file(model, tmp_path):
    run(write_lines(tmp_path / "in.jsonl", FORMS), model("chatml"), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert {name: dataset.dtype.str for name, dataset in file.items()} == {
            "tokens": "<i4", "label_mask": "|u1", "offsets": "<i8", "id": "|O", "source": "|O",
        }  # fmt: skip
        assert file.attrs["format"] == "idistill-tokens" and file.attrs["version"] == 1
        assert file["offsets"][0] == 0 and file["offsets"][-1] == len(file["tokens"]) == len(file["label_mask"])
        assert len(file["offsets"]) == len(file["id"]) + 1 == len(file["source"]) + 1


def test_any_number_of_workers_writes_the_same(model, tmp_path):
    rows = [{"prompt": f"hello {i}", "completion": "world " * (i % 50)} for i in range(5 * prepare.CHUNK + 3)]
    source = write_lines(tmp_path / "in.jsonl", rows)
    read = []
    for workers in (1, 3):
        run(source, model("chatml"), tmp_path / "out.h5", workers=workers)
        with h5py.File(tmp_path / "out.h5") as file:
            read.append(({name: file[name][:].tolist() for name in file}, dict(file.attrs)))
    assert read[0] == read[1]
    assert read[0][0]["id"] == [f"in-{i + 1}".encode() for i in range(len(rows))]


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
