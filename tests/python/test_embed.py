"""Sentence embeddings of samples: the model's own, under the ids of prepare.py, in one file for pool and targets."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import embed
import h5py
import numpy as np
import pytest
from conftest import JOBS
from idistill import sentence_embedding
from idistill.output_file import EmbeddingFile
from idistill.rows import Reading
from idistill.samples import read_samples
from idistill.sentence_embedding import whole_text
from idistill.sentence_model import SentenceModel, _carried
from idistill.token_file import TokenFile
from preparing import assistant, run, user, write_lines
from real_pool import needs_real_pool, samples_of

read, refused = commands.of(embed)


@pytest.fixture(scope="module")
def sentences():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(_carried()))


def rows_of(path: Path) -> dict[str, np.ndarray]:
    with EmbeddingFile(path) as file:
        assert file.attribute("made_by").startswith("embed.py all-MiniLM-L6-v2 (")
        ids = file.texts("id")
        assert len(set(ids)) == len(ids) == len(file["embedding"]) and file["embedding"].dtype == np.float32
        return dict(zip(ids, file["embedding"]))


def write_samples(path: Path, count: int, first: int = 0) -> Path:
    """Of many lengths, the longest beyond what the model reads."""
    numbers = range(first, first + count)
    return write_lines(path, [{"prompt": f"Say {i}", "completion": f"word {i} " * (1 + 37 * i % 101)} for i in numbers])


def test_rows_are_the_models_own_of_the_joined_texts(sentences, tmp_path, monkeypatch, capsys):
    samples = [
        {"id": "a", "messages": [user("What is heat?"), assistant("Motion.")]},
        {"id": "b", "instruction": "Add.", "input": "2, 2", "output": "4"},
        {"id": "c", "prompt": "Repeat.", "completion": "so long " * 300},
    ]
    read(monkeypatch, write_lines(tmp_path / "in.jsonl", samples), "--out", tmp_path / "out.h5")
    texts = ["What is heat?\nMotion.", "Add.\n\n2, 2\n4", "Repeat.\n" + "so long " * 300]
    expected = sentences.encode(texts, normalize_embeddings=True)
    found = rows_of(tmp_path / "out.h5")
    assert np.allclose([found[name] for name in "abc"], expected, atol=2e-6)
    assert np.allclose(np.linalg.norm(expected, axis=1), 1)
    said = capsys.readouterr().out
    assert "3  samples embedded" in said and "1  of them longer than the model reads" in said


def test_text_of_a_conversation_with_reasoning_and_calls(tmp_path):
    call = {"name": "add", "arguments": {"a": 2}}
    row = {"messages": [user("2?"), assistant("") | {"reasoning_content": "I add.", "tool_calls": [call]}]}
    (sample,) = read_samples(write_lines(tmp_path / "in.jsonl", [row]))
    assert whole_text(sample) == "2?\nI add.\n" + json.dumps(call)


def test_ids_are_those_of_prepare(model, tmp_path):
    """Of pool and targets that were prepared apart, or together, also where their files have one name."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    files = [write_samples(tmp_path / "a/train.jsonl", 3), write_samples(tmp_path / "b/train.jsonl", 3, first=1)]
    own = write_lines(tmp_path / "own.jsonl", [{"id": 7, "prompt": "x", "completion": "y"}])
    wanted = []
    for number, inputs in enumerate(([*files, own], files[:1], files[1:])):
        run(inputs, model("chatml"), tmp_path / f"{number}.h5")
        with TokenFile(tmp_path / f"{number}.h5") as prepared:
            wanted += prepared.ids
    sentence_embedding.embed([*files, own], tmp_path / "out.h5", None, 32, 0)
    found = rows_of(tmp_path / "out.h5")
    assert set(wanted) == set(found) and "7" in wanted and any(one.startswith("a/train-") for one in wanted)
    (one,) = (own for own in wanted if own.startswith("a/train-2-"))
    assert (found[one] == found[one.removeprefix("a/")]).all()


@needs_real_pool
def test_ids_are_those_of_prepare_on_the_real_pool(model, sentences, tmp_path):
    lines = samples_of("pool").read_bytes().splitlines(keepends=True)[:24]
    (tmp_path / "pool.jsonl").write_bytes(b"".join(lines))
    inputs = [tmp_path / "pool.jsonl", samples_of("squad")]
    wanted = []
    for number, path in enumerate(inputs):
        run(path, model("chatml"), tmp_path / f"{number}.h5")
        with TokenFile(tmp_path / f"{number}.h5") as prepared:
            wanted += prepared.ids
    sentence_embedding.embed(inputs, tmp_path / "out.h5", None, 8, 0)
    found = rows_of(tmp_path / "out.h5")
    assert list(found) == wanted
    texts = ["\n".join(message["content"] for message in json.loads(line)["messages"]) for line in lines]
    assert np.allclose([found[own] for own in wanted[:24]], sentences.encode(texts, normalize_embeddings=True), atol=2e-6)


def test_columns_form_and_source_as_in_prepare(sentences, tmp_path):
    path = write_lines(tmp_path / "in.jsonl", [{"uid": "u1", "text": "plain text"}])
    sentence_embedding.embed([path], tmp_path / "out.h5", None, 32, 0, Reading("text", {"id": "uid"}))
    assert np.allclose(rows_of(tmp_path / "out.h5")["u1"], sentences.encode("plain text"), atol=2e-6)


def test_one_id_with_one_text_is_embedded_once_and_with_another_refused(tmp_path, monkeypatch, capsys):
    first, second = {"id": "a", "prompt": "x", "completion": "y"}, {"id": "b", "prompt": "x", "completion": "y"}
    pool, target = write_lines(tmp_path / "pool.jsonl", [first, second]), write_lines(tmp_path / "target.jsonl", [first])
    read(monkeypatch, pool, target, "--out", tmp_path / "out.h5")
    assert list(rows_of(tmp_path / "out.h5")) == ["a", "b"]
    assert "1  of the id and text of a sample before" in capsys.readouterr().out
    write_lines(target, [first | {"completion": "z"}])
    complaint = refused(monkeypatch, pool, target, "--out", tmp_path / "other.h5")
    assert f"{target}: line 1: the id 'a' is taken by {pool}: line 1, of another text" in complaint
    assert not (tmp_path / "other.h5").exists()


def test_sample_without_text_has_no_numbers(tmp_path, monkeypatch, capsys):
    """Such samples have no labels, so that nothing asks for their rows; as in what idistill_mpi embed writes."""
    rows = [{"id": "a", "messages": []}, {"id": "b", "prompt": " ", "completion": ""}, {"id": "c", "prompt": "x", "completion": ""}]
    read(monkeypatch, write_lines(tmp_path / "in.jsonl", rows), "--out", tmp_path / "out.h5")
    found = rows_of(tmp_path / "out.h5")
    assert [bool(np.isnan(found[name]).all()) for name in "abc"] == [True, True, False]
    assert "2  of them without text" in capsys.readouterr().out


def test_killed_run_continues_to_the_same_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sentence_embedding, "UNIT", 8)
    pool, out = write_samples(tmp_path / "pool.jsonl", 80), tmp_path / "out.h5"
    units = tmp_path / "out.h5.units"
    program = f"""import sys, time
sys.path.insert(0, {str(JOBS)!r})
import embed
from idistill import sentence_embedding
sentence_embedding.UNIT = 8
done, own = [], sentence_embedding.SentenceModel.embed
def until_the_fourth(self, texts):
    done.append(texts)
    if len(done) == 4:
        time.sleep(600)
    return own(self, texts)
sentence_embedding.SentenceModel.embed = until_the_fourth
embed.main()"""
    command = [sys.executable, "-c", program, str(pool), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as process:
        deadline = time.monotonic() + 300
        while not (units.exists() and len([path for path in units.iterdir() if path.suffix != ".partial"]) == 3):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()

    again = []
    embedded = SentenceModel.embed
    monkeypatch.setattr(SentenceModel, "embed", lambda self, texts: again.append(texts) or embedded(self, texts))
    read(monkeypatch, pool, "--out", out)
    assert len(again) == 7
    assert "24  of them by a run that was stopped" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "pool.jsonl"]
    read(monkeypatch, pool, "--out", tmp_path / "whole.h5")
    with h5py.File(out) as continued, h5py.File(tmp_path / "whole.h5") as whole:
        assert (continued["embedding"][:] == whole["embedding"][:]).all() and (continued["id"][:] == whole["id"][:]).all()
        assert dict(continued.attrs) == dict(whole.attrs)


def test_what_is_refused(tmp_path, monkeypatch):
    pool, out = write_samples(tmp_path / "pool.jsonl", 1), tmp_path / "out.h5"
    assert "pool.jsonl: is an input" in refused(monkeypatch, pool, "--out", pool)
    assert "expected its directory, or its name" in refused(monkeypatch, pool, "--model", "no-such/model", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "has no modules.json" in refused(monkeypatch, pool, "--model", tmp_path / "empty", "--out", out)
    (tmp_path / "empty/modules.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "is a pointer of Git LFS" in refused(monkeypatch, pool, "--model", tmp_path / "empty", "--out", out)
    nothing = write_lines(tmp_path / "nothing.jsonl", [])
    assert "found no samples" in refused(monkeypatch, nothing, "--out", out)
    bad = write_lines(tmp_path / "bad.jsonl", ["{", {"id": "a", "prompt": "x", "completion": "y"}])
    assert "bad.jsonl: line 1: not valid JSON" in refused(monkeypatch, bad, "--out", out)
    assert not list(tmp_path.glob("out.h5*"))
    read(monkeypatch, bad, "--out", out, "--max-bad-lines", 1)
    assert list(rows_of(out)) == ["a"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "sentence-transformers is missing" in refused(monkeypatch, pool, "--out", out)
