"""The real model on a few real samples, from JSON lines to a result."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from idistill.result import Result
from idistill.token_file import TokenFile
from program import run
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"


def prepare(directory, model, **counts):
    """The first samples of the real pool and of a target, at most 128 tokens of each, as NAME.h5."""
    for name, count in counts.items():
        source = SHARED / "pool.jsonl" if name == "pool" else SHARED / "targets" / f"{name}.target.jsonl"
        with open(source, encoding="utf-8") as lines:
            (directory / f"{name}.jsonl").write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
        subprocess.run([sys.executable, ROOT / "jobs" / "prepare.py", directory / f"{name}.jsonl", "--model", model, "--out",
                        directory / f"{name}.h5", "--max-length", "128"], check=True, capture_output=True, timeout=120)


@pytest.mark.skipif(not (SHARED / "pool.jsonl").exists(), reason="the real pool, ../shared/data/pool.jsonl, is not here")
def test_real_pool(tmp_path):
    model = os.environ["IDISTILL_MODEL"]
    prepare(tmp_path, model, pool=24, gsm8k=4)
    out = tmp_path / "weights.h5"
    run(2, "--model", model, "--pool", tmp_path / "pool.h5", "--target", f"gsm8k={tmp_path / 'gsm8k.h5'}", "--landmarks", 8,
        "--select", 6, "--out", out, timeout=300)
    with Result(out) as result, TokenFile(tmp_path / "pool.h5") as pool:
        assert result.texts("id") == pool.ids
        influence = result["influence"]
        usable = np.isfinite(influence).all(1)
        assert list(usable) == [bool(mask[1:].any()) for *_, mask in pool]
        assert usable.sum() > 14 and np.abs(influence[usable]).max() <= 1.01
        assert result["exact"].sum() == 8 and len(result["selected/index"]) == 6
        assert (result["gradient_norm"][usable] > 0).all()
        exact = influence[result["exact"] == 1]
        assert np.ptp(exact) > 0.01  # samples differ
    assert not (tmp_path / "weights.h5.state").exists()


@pytest.mark.skipif(not (SHARED / "pool.jsonl").exists(), reason="the real pool, ../shared/data/pool.jsonl, is not here")
def test_without_a_sketch_influence_is_that_of_transformers_in_fp64(tmp_path):
    """Cosines of gradients of 26.5 million weights, with and without the contrast: none is off by more than 1e-4 of itself, or
    1e-6 where it is near 0."""
    model = os.environ["IDISTILL_MODEL"]
    prepare(tmp_path, model, pool=8, gsm8k=3)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")
    weights = [weight.requires_grad_(name.endswith("down_proj.weight")) for name, weight in reference.named_parameters()]

    def directions(path):
        rows = []
        with TokenFile(path) as file:
            for *_, tokens, mask in file:
                if not mask[1:].any():
                    continue
                ids = torch.from_numpy(tokens).long()
                wanted = torch.where(torch.from_numpy(mask).bool(), ids, -100)
                loss = reference(ids[None], labels=wanted[None]).loss
                gradients = torch.autograd.grad(loss, [weight for weight in weights if weight.requires_grad])
                rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
                rows[-1] /= rows[-1].norm()
        return torch.stack(rows)

    samples, targets = directions(tmp_path / "pool.h5"), directions(tmp_path / "gsm8k.h5")
    mean = samples.mean(0)
    without = targets - (targets @ mean / mean.square().sum())[:, None] * mean
    for contrast, rows in ((0, targets), (128, without)):
        out = tmp_path / f"exact-{contrast}.h5"
        run(2, "--model", model, "--pool", tmp_path / "pool.h5", "--target", f"gsm8k={tmp_path / 'gsm8k.h5'}", "--propagation", "none",
            "--sketch", "none", "--contrast", contrast, "--out", out, timeout=300)
        with Result(out) as result:
            found = result["influence"].astype(float)
        expected = (samples @ rows.T).numpy()
        np.testing.assert_allclose(found[np.isfinite(found).all(1)], expected, rtol=1e-4, atol=1e-6)
