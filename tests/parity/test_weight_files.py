"""Which weights of a model directory count, and whether its head is tied: what transformers loads, in logits of both.

Run through CTest, which sets IDISTILL_PROBE (tests/support/parity_probe.cpp).
"""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from idistill.token_file import TokenFileWriter

EMBEDDING, HEAD, MLP = "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.down_proj.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENS = np.array([3, 17, 40, 5, 88, 61, 2], np.int32)


def tensors(seed):
    """All weights of the tiny model, with a head of its own."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config)
    return config, {name: 4 * parameter.detach() for name, parameter in model.named_parameters()}


@pytest.fixture
def directory(tmp_path):
    """A model directory as it is saved."""
    config, weights = tensors(1)
    config.save_pretrained(tmp_path / "model")
    write(tmp_path / "model" / SINGLE, weights)
    return tmp_path / "model"


def write(path, weights):
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata={"format": "pt"})


def set_config(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def ours(directory):
    tokens, out = directory.parent / "tokens.h5", directory.parent / "out.pt"
    with TokenFileWriter(tokens, "0" * 64, 64) as file:
        file.append("s0", "test", TOKENS, np.ones(len(TOKENS), np.uint8))
    subprocess.run([os.environ["IDISTILL_PROBE"], *map(str, [directory, tokens, out, 100, 1, 2, "down_proj"])], check=True, timeout=60)
    return torch.load(out, weights_only=False)["logits.0"]


def theirs(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor(TOKENS, dtype=torch.long)[None]).logits[0]


def assert_as_transformers(directory, but_not=()):
    """... and unlike what the weights of the other model directories give: the cases can be told apart."""
    found, expected = ours(directory), theirs(directory)
    assert (found - expected).norm() < 1e-4 * expected.norm()
    for other in but_not:
        assert (found - theirs(other)).norm() > 1e-2 * expected.norm()
    return expected


def copy(directory, name):
    return shutil.copytree(directory, directory.parent / name)


def test_a_single_file_counts_before_an_index(directory):
    """The index and its shards may be left over from another model, or the single file may: transformers takes the file."""
    stale = copy(directory, "stale")
    (stale / SINGLE).unlink()
    _, other = tensors(2)
    for place in (directory, stale):
        write(place / "one.safetensors", other)
        (place / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(other, "one.safetensors")}))
    assert_as_transformers(directory, but_not=[stale])
    assert_as_transformers(stale, but_not=[directory])


def test_an_index_names_files_not_places(directory):
    """All that lies in the named files is taken, wherever the index has it, and the later file's of two tensors of a name."""
    _, first = tensors(1)
    _, second = tensors(2)
    only_first = copy(directory, "first")
    (directory / SINGLE).unlink()
    write(directory / "a.safetensors", first)
    write(directory / "b.safetensors", {name: second[name] for name in (MLP, HEAD)})
    for places in ({**dict.fromkeys(first, "a.safetensors"), MLP: "b.safetensors"},
                   {EMBEDDING: "b.safetensors", MLP: "a.safetensors"}):  # wrong, and most of them missing
        (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
        assert_as_transformers(directory, but_not=[only_first])


def changed(values):
    values = values.clone()
    values[5, 7] += 1.0
    return values


HEADS = {  # what the file has under the names of embedding and head
    "equal": lambda e, h: {EMBEDDING: e, HEAD: e.clone()},
    "another": lambda e, h: {EMBEDDING: e, HEAD: h},
    "a number apart": lambda e, h: {EMBEDDING: e, HEAD: changed(e)},
    "equal in another type": lambda e, h: {EMBEDDING: e.to(torch.bfloat16).to(torch.float32), HEAD: e.to(torch.bfloat16)},
    "in another type": lambda e, h: {EMBEDDING: e, HEAD: e.to(torch.bfloat16)},
    "no head": lambda e, h: {EMBEDDING: e},
    "no embedding": lambda e, h: {HEAD: h},
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "not tied"])
@pytest.mark.parametrize("case", HEADS)
def test_the_head_is_tied_as_transformers_ties_it(directory, case, tied):
    _, weights = tensors(1)
    embedding, head = weights.pop(EMBEDDING), weights.pop(HEAD)
    write(directory / SINGLE, {**weights, **HEADS[case](embedding, head)})
    set_config(directory, tie_word_embeddings=tied)
    if not tied and case.startswith("no "):  # transformers draws random numbers then: refused
        with pytest.raises(subprocess.CalledProcessError):
            ours(directory)
        return
    assert_as_transformers(directory)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
def test_a_head_of_a_type_that_cannot_be_read_is_refused_by_name(directory, dtype):
    """Beside a tied embedding, whose numbers it is compared with."""
    _, weights = tensors(1)
    write(directory / SINGLE, weights | {HEAD: weights[EMBEDDING].to(dtype)})
    set_config(directory, tie_word_embeddings=True)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        ours(directory)
    assert failed.value.returncode > 0  # no signal
