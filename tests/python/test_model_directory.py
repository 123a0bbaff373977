"""prepare.py and show_labels.py of what is no model directory: the cause and what to do, before transformers speaks."""

import json
import shutil

import chat_models
import commands
import prepare
import pytest
import show_labels
from preparing import write_lines

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
_, refused = commands.of(prepare)
_, not_shown = commands.of(show_labels)


@pytest.fixture
def row(tmp_path):
    return write_lines(tmp_path / "in.jsonl", [{"prompt": "hello", "completion": "world"}])


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    chat_models.save("chatml", directory)
    (directory / "config.json").write_text("{}")
    return directory


def said_of(monkeypatch, row, directory) -> str:
    """By both, which say the same."""
    said = refused(monkeypatch, row, "--model", directory, "--out", row.parent / "out.h5")
    assert not (row.parent / "out.h5").exists()
    shown = not_shown(monkeypatch, row, "--model", directory)
    assert shown.partition(": ")[2].strip() in said
    return said


def test_a_name_of_the_hub(monkeypatch, row):
    said = said_of(monkeypatch, row, "org/Some-Model")
    assert "org/Some-Model: not a directory" in said and "hf download org/Some-Model --local-dir Some-Model" in said


def test_a_directory_that_is_not_there(monkeypatch, row, tmp_path):
    said = said_of(monkeypatch, row, tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'}: not a directory; expected a Hugging Face model" in said and "hf download" not in said


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_pointer_of_git_lfs(monkeypatch, row, model, name):
    (model / name).write_text(POINTER)
    said = said_of(monkeypatch, row, model)
    assert f"{model / name}: is a pointer of Git LFS" in said and f"git -C {model} lfs pull" in said


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter(monkeypatch, row, model, whole):
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    if not whole:
        shutil.rmtree(model)
        model.mkdir()
        (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    said = said_of(monkeypatch, row, model)
    assert f"{model}: an adapter of org/base; expected a whole model. Merge it into its base first" in said
    assert f"M.from_pretrained('{model}').merge_and_unload()" in said
    assert f"T.from_pretrained('{model if whole else 'org/base'}')" in said
