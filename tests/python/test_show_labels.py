"""jobs/show_labels.py."""

import commands
import show_labels
from preparing import assistant, user, write_lines

run, refused = commands.of(show_labels)
TURNS = [user("你好"), assistant("<|im_end|> 🙂"), user("x"), assistant("y")]
ROWS = [{"prompt": "hello", "completion": "world"}, "", {"messages": TURNS}]


def test_labels_stand_in_brackets(model, tmp_path, monkeypatch, capsys):
    source = write_lines(tmp_path / "in.jsonl", ROWS)
    run(monkeypatch, source, "--model", model("chatml"), "--row", 2)
    shown = capsys.readouterr()
    assert shown.out == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
        "【<|im_end|> 🙂<|im_end|>】\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n【y<|im_end|>】\n\n"
    )
    assert f"{source}: line 3: " in shown.err and "control tokens in the text" in shown.err


def test_labels_are_green_on_a_terminal(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run(monkeypatch, write_lines(tmp_path / "in.jsonl", ROWS), "--model", model("chatml"))
    assert "assistant\n\x1b[32mworld<|im_end|>\x1b[0m\n" in capsys.readouterr().out


def test_rows_that_are_not_there_or_bad(model, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", [*ROWS, "{"])
    assert f"{source}: has no row 4" in refused(monkeypatch, source, "--model", model("chatml"), "--row", 4)
    assert f"{source}: line 4: not valid JSON" in refused(monkeypatch, source, "--model", model("chatml"), "--row", 3)
