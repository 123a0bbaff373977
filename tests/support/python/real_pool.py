"""Samples of the real pool and the gradients that transformers gives them."""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from idistill import preparation
from idistill.token_file import TokenFile
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"

needs_real_pool = pytest.mark.skipif(not (SHARED / "pool.jsonl").exists(), reason="the real pool, ../shared/data/pool.jsonl, is not here")


def samples_of(name: str) -> Path:
    """Of the pool, "pool", or of a target."""
    return SHARED / "pool.jsonl" if name == "pool" else SHARED / "targets" / f"{name}.target.jsonl"


class First(NamedTuple):
    """The first `count` samples with a question of at most `question` characters, and at most `length` tokens of each."""

    count: int
    question: int
    length: int


def short_ones(name: str, first: First) -> str:
    """As JSON lines, behind an empty system message: the chat template's default would be half of such samples."""
    with open(samples_of(name), encoding="utf-8") as lines:
        rows = (row for row in map(json.loads, lines) if sum(len(own["content"]) for own in row["messages"][:-1]) <= first.question)
        system = {"role": "system", "content": ""}
        return "".join(json.dumps({**row, "messages": [system, *row["messages"]]}) + "\n" for row in itertools.islice(rows, first.count))


def tokenise(samples: Path, model, out: Path, length: int = 2048):
    """As jobs/prepare.py does."""
    preparation.prepare([samples], Path(model), out, length, max_bad_lines=0, workers=1)


def prepare(directory: Path, model, **names: First):
    """Of the real pool and of targets, as NAME.h5."""
    for name, first in names.items():
        (directory / f"{name}.jsonl").write_text(short_ones(name, first), encoding="utf-8")
        tokenise(directory / f"{name}.jsonl", model, directory / f"{name}.h5", first.length)


def reference_of(directory) -> torch.nn.Module:
    """In fp64; only down_proj is differentiated."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager")
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.endswith("down_proj.weight"))
    return model


def gradients(model: torch.nn.Module, path: Path) -> torch.Tensor:
    """(n x d) of the usable samples of a token file."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    rows = []
    with TokenFile(path) as file:
        for *_, tokens, mask in file:
            if not mask[1:].any():
                continue
            ids = torch.from_numpy(tokens).long()
            wanted = torch.where(torch.from_numpy(mask).bool(), ids, -100)
            loss = model(ids[None], labels=wanted[None]).loss
            rows.append(torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, weights)]))
    return torch.stack(rows)
