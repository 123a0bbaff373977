"""What prepare.py says of what it read, and the options that say how to read."""

from pathlib import Path

import chat_models
import commands
import prepare
import pytest
from idistill.rows import Place, Reading, Row
from idistill.token_file import TokenFile
from idistill.workers import _chunks
from preparing import FORMS, HELLO, assistant, run, user, write_lines
from transformers import AutoTokenizer

read, refused = commands.of(prepare)


def test_columns_that_are_not_used_are_counted(model, tmp_path):
    rows = [HELLO | {"topic": "x"}, HELLO | {"topic": "y", "id": "a", "source": "s"}, {"messages": [user("a") | {"time": 5}, assistant("b")]}]
    summary = run(write_lines(tmp_path / "in.jsonl", rows), model("chatml"), tmp_path / "out.h5")
    assert "Columns not used: topic (2 rows), messages.time (1 rows)" in str(summary)
    summary = run(write_lines(tmp_path / "in.jsonl", FORMS), model("chatml"), tmp_path / "out.h5")
    assert "Columns not used" not in str(summary)


def test_samples_that_are_there_twice_are_counted_and_kept(model, tmp_path):
    """By what a model sees of them: forms do not matter, nor ids, nor what lies beyond the maximum length."""
    rows = [FORMS[0], FORMS[1], {"question": "hello", "answer": "good night"}, FORMS[2], HELLO | {"completion": "world " * 99},
            HELLO | {"completion": "world " * 98}]  # fmt: skip
    source = write_lines(tmp_path / "in.jsonl", rows)
    summary = run(source, model("chatml"), tmp_path / "out.h5", max_length=64)
    assert "Same tokens and labels as an earlier sample, kept: 3\n" in str(summary)
    assert f"  {source}: line 2: as {source}: line 1\n  {source}: line 4: as {source}: line 1\n" in str(summary)
    assert f"{source}: line 6: as {source}: line 5" in str(summary)
    with TokenFile(tmp_path / "out.h5") as file:
        assert len(file.ids) == 6
    assert "Same tokens" not in str(run(write_lines(source, rows[1:3]), model("chatml"), tmp_path / "out.h5"))


def test_files_without_rows_are_named(model, tmp_path):
    empty = write_lines(tmp_path / "empty.jsonl", [])
    summary = run([write_lines(tmp_path / "in.jsonl", FORMS), empty], model("chatml"), tmp_path / "out.h5")
    assert f"Files without rows: {empty}" in str(summary)


def test_files_of_a_directory_that_are_not_read_are_named(model, tmp_path):
    directory = tmp_path / "data"
    (directory / ".cache").mkdir(parents=True)
    write_lines(directory / "in.jsonl", FORMS)
    for name in ("part-00001", "more.jsonl.xz", ".cache/old.jsonl"):
        write_lines(directory / name, FORMS)
    summary = run(directory, model("chatml"), tmp_path / "out.h5")
    named = f"Files not read, which are not named as samples: {directory / 'more.jsonl.xz'}, {directory / 'part-00001'}"
    assert str(summary).endswith(named)
    assert str(run(tmp_path / "dat*", model("chatml"), tmp_path / "globbed.h5")).endswith(named)


def test_options_that_say_how_to_read(model, tmp_path, monkeypatch, capsys):
    source = write_lines(tmp_path / "in.jsonl", [{"Q": "hello", "A": "world"}])
    known = ["--model", model("chatml"), "--out", tmp_path / "out.h5"]
    read(monkeypatch, source, *known, "--columns", "prompt=Q,completion=A", "--source", f"greetings={tmp_path}/*.jsonl")
    assert "greetings" in capsys.readouterr().out
    with TokenFile(tmp_path / "out.h5") as file:
        tokens, sources = file[0][0].tolist(), file.sources
    read(monkeypatch, write_lines(source, [HELLO]), *known)
    with TokenFile(tmp_path / "out.h5") as file:
        assert file[0][0].tolist() == tokens and sources == ["greetings"]
    assert "no row has a column 'sytem'; expected those that --columns" in refused(monkeypatch, source, *known, "--columns", "system=sytem")
    for option, given, problem in [("--columns", "promt=Q", "'promt=Q': expected NAME=COLUMN"),
                                   ("--columns", "prompt=Q;completion=A", "and a comma before the next"),
                                   ("--columns", "prompt", "'prompt': expected"),
                                   ("--source", "x", "'x': expected NAME=GLOB"), ("--form", "dpo", "invalid choice: 'dpo'")]:  # fmt: skip
        refused(monkeypatch, source, *known, option, given)
        assert problem in capsys.readouterr().err


@pytest.mark.parametrize("puts_bos", [True, False])
def test_text_alone_is_between_bos_and_eos_and_learnt(puts_bos, tmp_path):
    from tokenizers import processors

    made = chat_models.llama3()
    if puts_bos:
        start = ("<|begin_of_text|>", made.bos_token_id)
        made.backend_tokenizer.post_processor = processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[start])
    made.save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    texts = ["Once upon a time. 你好", " \n"]
    source = write_lines(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    summary = run(source, tmp_path / "model", tmp_path / "out.h5", reading=Reading("text"))
    with TokenFile(tmp_path / "out.h5") as file:
        (tokens, mask), (_, none) = file[0], file[1]
        assert tokens.tolist() == [*tokenizer(texts[0])["input_ids"], tokenizer.eos_token_id]
        assert (tokens[0] == tokenizer.bos_token_id) == puts_bos
        assert mask.tolist() == [0] + [1] * (len(tokens) - 1) and not none.any()
    assert "1  empty text" in str(summary)


def test_chunks_of_long_rows_are_short():
    rows = [Row(Place(Path("in"), "row", i), None, {"a": ["x" * 400_000], "b": {"c": "y"}}) for i in range(7)]
    assert [len(chunk) for chunk in _chunks(rows)] == [3, 3, 1]
    assert [len(chunk) for chunk in _chunks([row._replace(content=b"{}") for row in rows] * 20)] == [128, 12]
