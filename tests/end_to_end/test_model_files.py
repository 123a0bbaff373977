"""What a run says of the files of its model: weights that are there twice, a head of its own, a tokenizer that is not there."""

import json
import shutil

import pytest
from program import run
from tiny import write_tokens

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17210\n"


@pytest.fixture
def model(inputs, tmp_path):
    return shutil.copytree(inputs.model, tmp_path / "model")


@pytest.fixture
def planned(inputs, model, tmp_path):
    """What `plan` and `plan embed` say, each of which reads the files as the run does."""
    def say(*extra):
        arguments = inputs.arguments(tmp_path / "out.h5", *extra)
        arguments[1] = model
        embed = ["--embedding", "hidden", "--model", model, "--pool", inputs.pool_file, "--out", tmp_path / "e.h5"]
        return run(2, "plan", *arguments), run(2, "plan", "embed", *embed)

    return say


def test_weights_that_are_there_twice(model, planned):
    assert all("warning: " + str(model) not in said for said in planned())
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    for said in planned():
        assert said.count(f"warning: {model} has both model.safetensors and model.safetensors.index.json: the first is read") == 1


def test_a_head_of_its_own_beside_a_tied_embedding(model, planned):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    for said in planned():
        assert said.count(f"warning: {model} has another lm_head.weight than model.embed_tokens.weight: they are not tied") == 1


def test_a_tokenizer_that_is_not_there(inputs, model, planned, tmp_path):
    nothing_says = "warning: nothing says whether the token files were prepared with the model's tokenizer: "
    for text, reason in [(None, "cannot be read. Copy"), (POINTER, f"is a Git LFS pointer. Git LFS has put a pointer in place of "
                         f"the file: fetch it with `git -C {model} lfs pull`."), ("{}", "is no tokenizer. Copy")]:
        if text is not None:
            (model / "tokenizer.json").write_text(text)
        for said in planned():
            assert said.count(f"{nothing_says}{model}/tokenizer.json {reason}") == 1, said
            assert "different tokenizers" not in said
    other = write_tokens(tmp_path / "other.h5", inputs.pool[20:25], tokenizer="1" * 64)
    said, _ = planned("--target", f"other={other}")
    assert f"warning: {inputs.pool_file} and {other} were prepared with different tokenizers" in said
