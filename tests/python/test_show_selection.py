import commands
import numpy as np
import pytest
import show_selection
from result_files import write_result

run, refused = commands.of(show_selection)

# Two tasks; ties in the first; row 1 is quarantined although one of its scores is finite.
SOURCES = ["web", "math", "math", "web", "rare", "web", "code", "web"]
MATH = [0.1, 0.9, 0.8, 0.5, 0.5, 0.5, np.nan, -1.0]
CODE = [0.9, np.nan, 0.1, 0.2, 0.3, 0.4, np.nan, 0.5]


@pytest.fixture
def result(tmp_path):
    return write_result(
        tmp_path / "weights.h5", ids=[f"s{i}" for i in range(8)], sources=SOURCES, scores=np.stack([MATH, CODE], 1),
        tasks=["math", "chät"], columns=["m-0", "m-1", "c-0"], column_task=[0, 0, 1], selected=[2, 0, 4],
        selected_columns=[1, 2, 0], weights=[1, 1, 1], quarantined=[1, 6],
    )  # fmt: skip


def shown(monkeypatch, capsys, *arguments) -> list[list[str]]:
    """The words of every line that is not empty."""
    run(monkeypatch, *arguments)
    return [line.split() for line in capsys.readouterr().out.splitlines() if line]


def test_shares_of_what_every_target_selected(result, monkeypatch, capsys):
    lines = shown(monkeypatch, capsys, result)
    assert lines[0] == "target math: 2 samples selected".split()
    assert lines[2:4] == [["math", "25.0%", "50.0%", "█" * 20], ["rare", "12.5%", "50.0%", "█" * 20]]
    assert lines[4:6] == [["code", "12.5%", "0.0%"], ["web", "50.0%", "0.0%"]]
    assert lines[6] == "target chät: 1 samples selected".split()
    assert lines[8] == ["web", "50.0%", "100.0%", "█" * 40]


def test_shares_of_weight(tmp_path, monkeypatch, capsys):
    result = write_result(
        tmp_path / "weights.h5", ids=["a", "b", "c", "d"], sources=["web", "math", "math", "code"], scores=[[0.5]] * 4,
        tasks=["t"], columns=["t"], column_task=[0], selected=[0, 1, 2], selected_columns=[-1] * 3, weights=[2.25, 0.5, 0.25],
    )  # fmt: skip
    assert shown(monkeypatch, capsys, result) == [
        "all targets: 3 samples selected".split(), ["source", "pool", "selected", "weight"],
        ["web", "25.0%", "33.3%", "75.0%", "█" * 30], ["math", "50.0%", "66.7%", "25.0%", "█" * 10],
        ["code", "25.0%", "0.0%", "0.0%"]]  # fmt: skip


def test_sources_over_represented_among_the_best_of_one_task(result, monkeypatch, capsys):
    """Best for math: row 2, then rows 3, 4 and 5 with equal scores, of which the lower come first."""
    lines = shown(monkeypatch, capsys, result, "--task", "math", "--first", 3)
    assert lines[0][:3] == ["target", "math", "alone:"] and "3" in lines[0]
    assert lines[2:] == [
        ["rare", "2.7", "1", "33.33%", "1", "12.50%"],
        ["math", "1.3", "1", "33.33%", "2", "25.00%"],
        ["web", "0.7", "1", "33.33%", "4", "50.00%"],
    ]
    assert shown(monkeypatch, capsys, result, "--task", "math", "--first", 3, "--top", 1)[2:] == lines[2:3]


def test_the_task_decides(result, monkeypatch, capsys):
    lines = shown(monkeypatch, capsys, result, "--task", "chät", "math", "--first", 3)
    assert lines[2:4] == [["web", "2.0", "3", "100.00%", "4", "50.00%"], lines[3]]
    assert lines[3][:3] == ["target", "math", "alone:"]


def test_what_cannot_be_shown(result, tmp_path, monkeypatch, capsys):
    assert "has no task 'maths', only math, chät" in refused(monkeypatch, result, "--task", "maths")
    assert "500 samples asked for, 6 eligible" in refused(monkeypatch, result, "--task", "math")
    assert len(shown(monkeypatch, capsys, result, "--task", "math", "--first", 6)) > 2
    refused(monkeypatch, result, "--task", "math", "--first", 0)
    assert "expected at least 1" in capsys.readouterr().err
    assert str(tmp_path / "none.h5") in refused(monkeypatch, tmp_path / "none.h5")


def test_ties_go_to_the_lower_row(tmp_path, monkeypatch, capsys):
    sources = ["low"] * 100 + ["high"] * 300
    result = write_result(
        tmp_path / "ties.h5", ids=[f"s{i}" for i in range(400)], sources=sources, scores=np.ones((400, 1)), tasks=["t"],
        columns=["t"], column_task=[0], selected=[0], selected_columns=[0], weights=[1],
    )  # fmt: skip
    assert shown(monkeypatch, capsys, result, "--task", "t", "--first", 100)[2:] == [["low", "4.0", "100", "100.00%", "100", "25.00%"]]
