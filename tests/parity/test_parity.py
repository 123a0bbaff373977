"""The written-out passes against transformers and PyTorch: logits, losses, per-sample gradients of every linear layer, Hessian-vector
products, tangents.

Run through CTest, which sets IDISTILL_PROBE (tests/support/parity_probe.cpp) and IDISTILL_MODEL (SmolLM2, if it is there).
"""

import copy
import os
import re
import subprocess

import numpy as np
import pytest
import torch
from torch.func import functional_call, jvp
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from idistill.token_file import TokenFileWriter

SIZES = dict(
    vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
    max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
)
LLAMA3_ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32, rope_theta=500.0)
FAMILIES = {
    "llama2": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama-mha-biases": LlamaConfig(**{**SIZES, "num_key_value_heads": 6}, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama3-rope": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
}
STORAGE = {"llama2": torch.float32, "llama-mha-biases": torch.bfloat16, "llama3-rope": torch.float16}
TOLERANCE = 1e-4


def relative_error(found, expected):
    found, expected = found.double(), expected.double()
    scale = expected.norm().item()
    return (found - expected).norm().item() / scale if scale > 0 else found.norm().item()


def random_samples(vocabulary, lengths, seed):
    random = np.random.default_rng(seed)
    samples = []
    for length in lengths:
        tokens = random.integers(2, vocabulary, length)
        mask = (random.random(length) < 0.4).astype(np.uint8)
        mask[min(1 + length // 2, length - 1)] = 1
        samples.append((tokens, mask))
    samples[0][1][-max(1, len(samples[0][1]) // 3):] = 0  # tokens behind the last label
    samples[0][1][1] = 1
    return samples


def write_tokens(path, samples):
    with TokenFileWriter(path, "0" * 64, 512) as file:
        for i, (tokens, mask) in enumerate(samples):
            file.append(f"s{i}", "test", np.asarray(tokens, np.int32), np.asarray(mask, np.uint8))


def probe(model_dir, token_file, out, batch_tokens, blocks, rank, layers):
    arguments = [model_dir, token_file, out, batch_tokens, blocks, rank, layers]
    subprocess.run([os.environ["IDISTILL_PROBE"], *map(str, arguments)], check=True, timeout=600)
    return torch.load(out, weights_only=False)  # our own file; LibTorch marks its dictionary types


@pytest.fixture(scope="module", params=list(FAMILIES))
def tiny(request, tmp_path_factory):
    """A tiny random model on disk, as transformers loads it again in float32."""
    torch.manual_seed(5)
    directory = tmp_path_factory.mktemp(request.param)
    model = AutoModelForCausalLM.from_config(FAMILIES[request.param])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "bias" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(8.0)
    model = model.to(STORAGE.get(request.param, torch.float32))
    model.save_pretrained(directory, max_shard_size="60KB" if request.param in ("qwen2", "llama3-rope") else "5GB")
    sharded = (directory / "model.safetensors.index.json").exists()
    assert sharded == (request.param in ("qwen2", "llama3-rope"))
    return load(directory), directory


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def losses_of(model, logits, samples):
    losses = []
    for (tokens, mask), own in zip(samples, logits):
        at = [p for p in range(1, len(tokens)) if mask[p]]
        log_probabilities = own.log_softmax(-1)
        losses.append(-torch.stack([log_probabilities[p - 1, int(tokens[p])] for p in at]).mean())
    return losses


def reference_logits(model, samples, padding):
    if padding is None:
        return [model(torch.tensor(tokens)[None]).logits[0] for tokens, _ in samples]
    longest = max(len(tokens) for tokens, _ in samples) + 3
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    attention = torch.zeros_like(ids)
    spans = []
    for i, (tokens, _) in enumerate(samples):
        first = longest - len(tokens) if padding == "left" else 0
        spans.append(slice(first, first + len(tokens)))
        ids[i, spans[-1]] = torch.tensor(tokens)
        attention[i, spans[-1]] = 1
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=attention, position_ids=positions).logits
    return [logits[i, span] for i, span in enumerate(spans)]


def linear_layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}


def probed(directory, samples, tmp_path, batches, rank, blocks, layers):
    """In micro-batches of at most these many tokens each: the reference is computed once for all."""
    write_tokens(tmp_path / "tokens.h5", samples)
    every = [probe(directory, tmp_path / "tokens.h5", tmp_path / "out.pt", tokens, blocks, rank, layers) for tokens in batches]
    given = ("hessian_vector.", "direction.", "tail.input.", "tail.output.")  # what the reference takes from the program
    assert all(torch.equal(found[key], every[0][key]) for found in every for key in found if key.startswith(given))
    return every


def check(model, directory, samples, tmp_path, batches, rank, blocks, layers="_proj"):
    every = probed(directory, samples, tmp_path, batches, rank, blocks, layers)
    for padding in (None, "left", "right"):
        with torch.no_grad():
            logits = reference_logits(model, samples, padding)
        expected = torch.stack(losses_of(model, logits, samples))
        for found in every:
            for i, own in enumerate(logits):
                assert relative_error(found[f"logits.{i}"], own) < TOLERANCE
            assert relative_error(found["loss"], expected) < TOLERANCE
    double = copy.deepcopy(model).double()  # a block's gradient can be a difference of numbers that are nearly equal
    check_gradients(double, samples, every, layers)
    check_hessian_product(model, double, samples, every)
    check_tangents(model, samples, every, blocks)


def hessian_product(model, samples, vectors):
    """By double backward, in the model's precision."""
    layers = linear_layers(model)
    weights = [layers[name].weight for name in vectors]
    losses = losses_of(model, reference_logits(model, samples, None), samples)
    loss = sum((i + 1) * own for i, own in enumerate(losses))
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    along = sum((g * v.to(g.dtype)).sum() for g, v in zip(gradients, vectors.values()))
    return torch.autograd.grad(along, weights)


def check_hessian_product(model, double, samples, every):
    """To the tolerance, or a few times what double backward itself loses to rounding in fp32, which depends on the
    processor: it forms other sums than dual numbers do."""
    prefix = "hessian_vector."
    vectors = {key[len(prefix):]: v for key, v in every[0].items() if key.startswith(prefix)}
    expected = hessian_product(double, samples, vectors)
    errors = [[relative_error(found[f"hessian.{name}"], own) for found in every] for name, own in zip(vectors, expected)]
    if all(error < TOLERANCE for own in errors for error in own):
        return
    for name, own, truth, rounded in zip(vectors, errors, expected, hessian_product(model, samples, vectors)):
        assert all(error < max(TOLERANCE, 5 * relative_error(rounded, truth)) for error in own), name


def check_gradients(model, samples, every, chosen):
    """Of the chosen layers; and the gradient tail: the direction of the last hidden state, and of the sketched gradients of the
    last two blocks."""
    chosen_weights = {n: layer.weight for n, layer in linear_layers(model).items() if re.search(chosen, n)}
    tail_weights = {n: layer.weight for n, layer in linear_layers(model).items() if f"tail.input.{n}" in every[0]}
    blocks, width = model.config.num_hidden_layers, model.config.hidden_size
    assert chosen_weights and {int(name.split(".")[2]) for name in tail_weights} == {blocks - 2, blocks - 1}
    weights = {**chosen_weights, **tail_weights}
    maps = {name: [every[0][f"tail.{side}.{name}"] for side in ("output", "input")] for name in tail_weights}
    for i, sample in enumerate(samples):
        loss = losses_of(model, reference_logits(model, [sample], None), [sample])[0]
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values()))))
        norm = sum(gradients[name].square().sum().item() for name in chosen_weights) ** 0.5
        sketch = torch.cat([tensor_sketch(gradients[name], *maps[name]) for name in tail_weights])
        with torch.no_grad():
            state = model.model(torch.tensor(sample[0])[None]).last_hidden_state[0, -1]
        for found in every:
            assert abs(found["norm"][i].item() / norm - 1) < TOLERANCE
            for name in chosen_weights:
                assert relative_error(found[f"gradient.{name}.{i}"], gradients[name]) < TOLERANCE, (name, i)
            assert relative_error(found["tail"][i, :width], state / state.norm()) < TOLERANCE, i
            assert relative_error(found["tail"][i, width:], sketch / sketch.norm()) < TOLERANCE, i


def tensor_sketch(gradient, outputs, inputs, length=9):
    """Count sketch of the gradient by the sum of an output's and an input's bucket; real numbers of its orthonormal spectrum."""
    (rows, row_signs), (columns, column_signs) = outputs, inputs
    buckets = (rows[:, None] + columns[None]) % length
    signed = gradient * row_signs[:, None] * column_signs[None]
    spectrum = torch.fft.rfft(torch.zeros(length, dtype=gradient.dtype).index_add_(0, buckets.flatten(), signed.flatten()), norm="ortho")
    numbers = torch.view_as_real(spectrum).flatten()  # every frequency but the first stands for two; that has no imaginary part
    return torch.cat([numbers[:1], 2**0.5 * numbers[2:]])


def check_tangents(model, samples, every, blocks):
    width = model.config.hidden_size
    base = model.model
    all_layers = base.layers
    base.layers = all_layers[:blocks]
    try:
        parameters = {n: p.detach() for n, p in base.named_parameters()}
        for i, (tokens, _) in enumerate(samples):
            ids = torch.tensor(tokens)[None]
            hidden = base(ids).last_hidden_state[0].detach()
            for found in every:
                assert relative_error(found["hidden"][i], torch.cat([hidden.mean(0), hidden[-1]])) < TOLERANCE
            for k in range(2):
                # A model's final norm has no direction: its parameters are not among those of the first blocks.
                tangents = {n: every[0].get(f"direction.{k}.model.{n}", torch.zeros_like(p)) for n, p in parameters.items()}
                assert sum(t.abs().max() > 0 for t in tangents.values()) == len(tangents) - 1
                _, expected = jvp(lambda p: functional_call(base, p, (ids,)).last_hidden_state[0, -1], (parameters,), (tangents,))
                for found in every:
                    assert relative_error(found["tangents"][i, k * width:(k + 1) * width], expected) < TOLERANCE, (i, k)
    finally:
        base.layers = all_layers


@pytest.mark.parametrize("rank,blocks", [(3, 2), (0, 3), (4, 1)])
def test_tiny(tiny, tmp_path, rank, blocks):
    model, directory = tiny
    samples = random_samples(97, [13, 2, 70, 7, 131, 64, 65], seed=rank)
    check(model, directory, samples, tmp_path, [1, 100_000], rank, blocks)


@pytest.fixture(scope="module")
def smollm2():
    directory = os.environ.get("IDISTILL_MODEL", "")
    assert os.path.exists(directory), f"SmolLM2 is missing: {directory!r}; jobs/setup.sh makes it"
    return load(directory), directory


def test_smollm2(smollm2, tmp_path):
    model, directory = smollm2
    check(model, directory, random_samples(40_000, [9, 40, 2, 7], seed=1), tmp_path, [1, 100_000], 8, 2, r"layers\.(0|14|29)\.")


def test_gradients_of_every_layer_of_smollm2(smollm2, tmp_path):
    """Of few samples: a sample's are 425 MB."""
    model, directory = smollm2
    samples = random_samples(40_000, [9, 17], seed=1)
    every = probed(directory, samples, tmp_path, [100_000], 8, 2, "_proj")
    check_gradients(copy.deepcopy(model).double(), samples, every, "_proj")
