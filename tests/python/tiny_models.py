"""Tiny random models, token files for them, and optimizers that have taken real steps."""

from pathlib import Path

import numpy as np
import torch
from idistill.token_file import TokenFileWriter
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

VOCABULARY = 97
SIZES = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
)  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
}


def save_model(family: str, directory: Path) -> Path:
    """Norm weights differ from one, and layers are far from linear, so that nothing cancels out."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(8.0)
    model.save_pretrained(directory)
    return directory


def load(directory: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def write_tokens(path: Path, count: int, seed: int, longest: int = 24, without_labels: int = 0) -> Path:
    """`count` random samples; the first `without_labels` of them have labels on nothing or on the first token alone."""
    random = np.random.default_rng(seed)
    with TokenFileWriter(path, "0" * 64, 64) as file:
        for i in range(count):
            length = int(random.integers(4, longest))
            mask = (random.random(length) < 0.5).astype(np.uint8)
            mask[-1] = 1
            if i < without_labels:
                mask[:] = 0
                mask[0] = i % 2
            file.append(f"s{i}", "test", random.integers(2, VOCABULARY, length).astype(np.int32), mask)
    return path


def take_steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3):
    for seed in range(steps):
        tokens = torch.randint(2, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
