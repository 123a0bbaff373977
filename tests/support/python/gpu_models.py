#!/usr/bin/env python3
"""Models of published shapes with seeded random weights, and token files for them, made where they are measured in seconds.

    gpu_models.py model SHAPE --out DIRECTORY     bf16 safetensors; drawn on a GPU where there is one, whose numbers are others
    gpu_models.py tokens --vocabulary 128256 --samples 2000 --out FILE.h5

Speed does not ask what weights are: all are normal with a standard deviation of 0.02, as before training, those of norms around
one. Samples have 191 tokens on average and at most 512; 60 of them are labels, at the end.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "jobs"))

from idistill.token_file import TokenFileWriter  # noqa: E402  (the path comes first)

LLAMA = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", torch_dtype="bfloat16", hidden_act="silu", rms_norm_eps=1e-5,
    attention_bias=False, mlp_bias=False, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
SHAPES = {
    "llama-3.2-1b": dict(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131_072, tie_word_embeddings=True, rope_theta=500_000.0,
        rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=8192),
    ),
    "llama-2-7b": dict(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, head_dim=128, max_position_embeddings=4096, tie_word_embeddings=False, rope_theta=10_000.0,
    ),
    "tiny": dict(
        vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=1024, tie_word_embeddings=True, rope_theta=10_000.0,
    ),
}  # fmt: skip
DEVIATION = 0.02
LONGEST, SHORTEST = 512, 16
TOKENS, LABELS = 191, 60  # means of a sample
SPREAD = 0.6  # of the logarithm of a length


def shards(shape: dict):
    """{name: shape} of the tensors of every file: one for what surrounds the blocks, one for every block."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    queries, keys = (shape[heads] * shape["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    around = {"model.embed_tokens.weight": (shape["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not shape["tie_word_embeddings"]:
        around["lm_head.weight"] = (shape["vocab_size"], hidden)
    yield around
    for block in range(shape["num_hidden_layers"]):
        sizes = {
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        yield {f"model.layers.{block}.{name}.weight": size for name, size in sizes.items()}


def write_shard(path: Path, sizes: dict[str, tuple], draw):
    """A safetensors file, tensor by tensor: the library copies all of them first, which takes three times as long."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, size in sizes.items():
        begin, end = end, end + 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, size in sizes.items():
            file.write(draw(name, size).cpu().view(torch.uint8).numpy())


def write_model(name: str, directory: Path, seed: int):
    shape = SHAPES[name]
    directory.mkdir(parents=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator(device).manual_seed(seed)

    def draw(tensor: str, size: tuple) -> torch.Tensor:
        weights = torch.empty(size, dtype=torch.bfloat16, device=device).normal_(0, DEVIATION, generator=random)
        return weights + 1 if "norm" in tensor else weights

    files = list(shards(shape))
    places = {}
    for number, sizes in enumerate(files, 1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        write_shard(directory / file, sizes, draw)
        places.update(dict.fromkeys(sizes, file))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (directory / "config.json").write_text(json.dumps({**LLAMA, **shape}, indent=2))


def lengths(random: np.random.Generator, count: int, mean: int, longest: np.ndarray | int) -> np.ndarray:
    """Log-normal and cut at both ends; what is cut above moves the mean down by a few per cent, which the factor restores."""
    drawn = 1.03 * mean * np.exp(SPREAD * random.standard_normal(count) - SPREAD**2 / 2)
    return np.clip(drawn.round().astype(int), 4, longest)


def write_tokens(path: Path, vocabulary: int, samples: int, seed: int):
    random = np.random.default_rng(seed)
    tokens = np.maximum(lengths(random, samples, TOKENS, LONGEST), SHORTEST)
    labels = lengths(random, samples, LABELS, tokens - 1)
    with TokenFileWriter(path, "0" * 64, LONGEST) as file:
        for i, (length, labelled) in enumerate(zip(tokens, labels)):
            mask = np.zeros(length, np.uint8)
            mask[-labelled:] = 1
            file.append(f"{path.stem}-{i}", "random", random.integers(3, vocabulary, length, dtype=np.int32), mask)
    print(f"{path}: {samples} samples, {tokens.mean():.0f} tokens and {labels.mean():.0f} labels on average")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    model = commands.add_parser("model", help="a model directory")
    model.add_argument("shape", choices=SHAPES)
    tokens = commands.add_parser("tokens", help="a token file")
    tokens.add_argument("--vocabulary", type=int, required=True)
    tokens.add_argument("--samples", type=int, required=True)
    for command in (model, tokens):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seed", type=int, default=43)
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"{arguments.out}: exists; remove it, or name another place")
    if arguments.command == "model":
        write_model(arguments.shape, arguments.out, arguments.seed)
    else:
        write_tokens(arguments.out, arguments.vocabulary, arguments.samples, arguments.seed)


if __name__ == "__main__":
    main()
