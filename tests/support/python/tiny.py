"""A tiny random Llama and token files for it: a whole run of the program takes about a second.

As a command it saves the model; tests copy that from IDISTILL_TINY_MODEL, as to import transformers takes longer than a run.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idistill.token_file import UNJOINED, Joint, TokenFileWriter, is_labelled

VOCABULARY = 97
POISON = 96  # its embedding is not a number: so are the gradients of samples that contain it
MAX_LENGTH = 64
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip


class Sample(NamedTuple):
    id: str
    source: str
    tokens: np.ndarray  # int32
    mask: np.ndarray  # uint8


def save_model(directory: Path, config=None):
    """Norm weights differ from one and layers are far from linear, so that nothing cancels out. `config`: of another family."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(8.0)
        model.model.embed_tokens.weight[POISON] = float("nan")
    model.save_pretrained(directory)


def load_model(directory: Path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def sample(random: np.random.Generator, name: str, source: str, longest: int = 40) -> Sample:
    """A source has a range of tokens of its own, so that it means something."""
    length = int(random.integers(3, longest))
    first = 2 + 10 * (sum(source.encode()) % 7)
    tokens = random.integers(first, first + 25, length).astype(np.int32)
    mask = (random.random(length) < 0.4).astype(np.uint8)
    mask[-1] = 1
    return Sample(name, source, tokens, mask)


def poisoned(random: np.random.Generator) -> list[tuple[str, Sample]]:
    """Samples that cannot be used, each with the reason that the result must give."""
    whole = sample(random, "", "poison", MAX_LENGTH)._replace
    tokens = random.integers(2, 90, MAX_LENGTH).astype(np.int32)
    first_only = np.zeros(9, np.uint8)
    first_only[0] = 1
    cases = [
        ("empty", tokens[:0], np.zeros(0, np.uint8)),
        ("no label tokens", tokens[:12], np.zeros(12, np.uint8)),
        ("no label tokens", tokens[:9], first_only),  # nothing predicts the first token
        ("no label tokens", tokens[:1], np.ones(1, np.uint8)),
        ("no label tokens after truncation", tokens, np.zeros(MAX_LENGTH, np.uint8)),
        ("not finite", np.append(tokens[:7], POISON).astype(np.int32)[[7, 0, 1, 2, 3]], np.ones(5, np.uint8)),
    ]
    return [(reason, whole(id=f"poison-{i}", tokens=t, mask=m)) for i, (reason, t, m) in enumerate(cases)]


def make_pool(count: int, seed: int = 1) -> tuple[list[Sample], dict[int, str]]:
    """`count` samples of three sources, with poisoned rows and ties in between, and {row: reason} of the poisoned."""
    random = np.random.default_rng(seed)
    samples = [sample(random, f"sample-{i}", ("web", "math", "code")[i % 3]) for i in range(count)]
    for row in range(5, count, 17):  # the same twice, far apart: ties that ranks' borders separate
        samples[row] = samples[(row * 7) % count]._replace(id=samples[row].id)
    reasons = {}
    for i, (reason, bad) in enumerate(poisoned(random) + poisoned(random)):
        row = (i * 31 + 3) % count
        samples[row] = bad._replace(id=f"poison-{i}")
        reasons[row] = reason
    return samples, reasons


def make_target(name: str, count: int, seed: int, poison: bool = False) -> list[Sample]:
    random = np.random.default_rng(seed)
    samples = [sample(random, f"{name}-{i}", name) for i in range(count)]
    return samples + [bad._replace(id=f"{name}-bad-{i}") for i, (_, bad) in enumerate(poisoned(random))] if poison else samples


def joint_of(one: Sample) -> Joint:
    """Other tokens at its end as an example, and a beginning that is not for others: of every other kind of sample."""
    if not is_labelled(one.mask):
        return UNJOINED
    kind = sum(one.id.encode()) % 4
    label = 1 + int(np.flatnonzero(one.mask[1:])[0])
    tail = np.arange(2, 2 + kind, dtype=np.int32)
    return Joint((label - 1) * (kind % 2) // 2, len(one.tokens) - (kind > 1), tail)


def write_tokens(path: Path, samples: list[Sample], max_length: int = MAX_LENGTH, tokenizer: str = "0" * 64, joints: bool = False) -> Path:
    with TokenFileWriter(path, tokenizer, max_length, joints) as file:
        for one in samples:
            file.append(*one, joint_of(one))
    return path


class Inputs:
    """Model, pool and two targets on disk. Targets with bad samples: `math` loses some before, one during the run."""

    unit = ("--unit-flops", "2e7")  # a few samples each: every stage has more units than the tests have ranks

    def __init__(self, directory: Path, pool_rows: int, target_rows: int = 12, joints: bool = False, config=None):
        self.directory = directory
        self.model = directory / "model"
        if config is None and (saved := os.environ.get("IDISTILL_TINY_MODEL")):
            shutil.copytree(saved, self.model)
        else:
            save_model(self.model, config)
        self.pool, self.reasons = make_pool(pool_rows)
        self.targets = {"math": make_target("math", target_rows, 3, poison=True), "code": make_target("code", target_rows - 1, 4)}
        self.pool_file = write_tokens(directory / "pool.h5", self.pool, joints=joints)
        self.target_files = {name: write_tokens(directory / f"{name}.h5", own, joints=joints) for name, own in self.targets.items()}

    def arguments(self, out: Path, *extra, pool=None) -> list:
        targets = [f"{name}={path}" for name, path in self.target_files.items()]
        return ["--model", self.model, "--pool", *(pool or [self.pool_file]), "--target", *targets, "--out", out, *extra]


if __name__ == "__main__":
    save_model(Path(sys.argv[1]))
