"""--influence less of the real model after a real warm-up, on a few real samples."""

import os
import subprocess
import sys

import less_truth
import numpy as np
import torch
from idistill.optimizer_file import OptimizerState
from idistill.result import Result
from program import run
from real_pool import ROOT, gradients, needs_real_pool, prepare, reference_of
from safetensors import safe_open


def state_of(path, model) -> tuple[OptimizerState, np.ndarray, np.ndarray]:
    """And its moments (d, fp64) of down_proj."""
    with safe_open(path, "pt") as file:
        said = file.metadata()
        names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        m, v = (torch.cat([file.get_tensor(f"{kind}.{name}").flatten() for name in names]).double().numpy()
                for kind in ("exp_avg", "exp_avg_sq"))
    constants = {name: float(said[name]) for name in ("beta1", "beta2", "eps")}
    return OptimizerState("adamw", int(said["step"]), float(said["learning_rate"]), 0.0, constants, {}), m, v


@needs_real_pool
def test_influence_is_that_of_transformers_in_fp64(tmp_path):
    """As the paper and as its released code have it; the default sketch is as near as it says."""
    model, warm = os.environ["IDISTILL_MODEL"], tmp_path / "warm"
    prepare(tmp_path, model, pool=8, gsm8k=3)
    subprocess.run([sys.executable, ROOT / "jobs" / "warmup.py", "--model", model, "--pool", tmp_path / "pool.h5", "--samples", "3",
                    "--batch-size", "1", "--micro-batch", "1", "--max-steps", "3", "--out", warm], check=True, capture_output=True, timeout=300)
    reference = reference_of(warm)
    state, m, v = state_of(warm / "optimizer.safetensors", reference)
    samples, targets = (gradients(reference, tmp_path / name).numpy() for name in ("pool.h5", "gsm8k.h5"))
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    assert state.step == 3

    def influence(name, *options):
        out = tmp_path / f"{name}.h5"
        run(2, "--model", warm, "--pool", tmp_path / "pool.h5", "--target", f"gsm8k={tmp_path / 'gsm8k.h5'}", "--influence", "less",
            "--propagation", "none", "--checkpoint", f"{warm}:1", "--out", out, *options, timeout=300)
        with Result(out) as result:
            rows = result["influence"].astype(float)
            return rows[np.isfinite(rows).all(1)], result["task/influence_error"]

    def expected(form):
        gamma = less_truth.steps(samples, m, v, state, form)
        return gamma @ targets.T / np.linalg.norm(gamma, axis=1, keepdims=True)

    for form, option in (("paper", "on"), ("released", "off")):
        found, _ = influence(form, "--sketch", "none", "--bias-correction", option)
        np.testing.assert_allclose(found, expected(form), rtol=1e-4, atol=1e-6)
    assert np.abs(expected("paper") - expected("released")).max() > 1e-3
    sketched, error = influence("sketched")
    assert np.abs(sketched.mean(1) - expected("paper").mean(1)).max() < 5 * error[0] < 0.01
