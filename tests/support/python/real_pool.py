"""Samples of the real pool and the gradients that transformers gives them."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from idistill.token_file import TokenFile
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"

needs_real_pool = pytest.mark.skipif(not (SHARED / "pool.jsonl").exists(), reason="the real pool, ../shared/data/pool.jsonl, is not here")


def samples_of(name: str) -> Path:
    """Of the pool, "pool", or of a target."""
    return SHARED / "pool.jsonl" if name == "pool" else SHARED / "targets" / f"{name}.target.jsonl"


def write_by_job(job: str, samples: Path, model, out: Path, *options):
    """prepare.py and what takes the same arguments."""
    subprocess.run([sys.executable, ROOT / "jobs" / job, samples, "--model", model, "--out", out, *options], check=True,
                   capture_output=True, timeout=300)  # fmt: skip


def prepare(directory, model, **counts):
    """The first samples of the real pool and of a target, at most 128 tokens of each, as NAME.h5."""
    for name, count in counts.items():
        with open(samples_of(name), encoding="utf-8") as lines:
            (directory / f"{name}.jsonl").write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
        write_by_job("prepare.py", directory / f"{name}.jsonl", model, directory / f"{name}.h5", "--max-length", "128")


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
