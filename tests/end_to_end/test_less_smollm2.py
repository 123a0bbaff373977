"""--influence less of the real model after three real steps of AdamW, on a few real samples."""

import os

import less_truth
import numpy as np
import optimizer_states
import torch
from idistill.result import Result
from idistill.token_file import TokenFile
from program import run
from real_pool import First, gradients, needs_real_pool, prepare, reference_of
from transformers import AutoModelForCausalLM


def train(model, samples, directory):
    """Three steps on down_proj, a sample each; the checkpoint's state and moments."""
    trained = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    weights = [w.requires_grad_(n.endswith(optimizer_states.DOWN)) for n, w in trained.named_parameters()]
    optimizer = torch.optim.AdamW([w for w in weights if w.requires_grad], lr=2e-5)
    for ids in samples[:3]:
        optimizer.zero_grad()
        trained(ids[None], labels=ids[None]).loss.backward()
        optimizer.step()
    trained.save_pretrained(directory)
    state = optimizer_states.state_of(trained, optimizer)
    optimizer_states.save(directory / "optimizer.safetensors", state)
    return state, *(less_truth.moments(trained, state, kind) for kind in ("exp_avg", "exp_avg_sq"))


@needs_real_pool
def test_influence_is_that_of_transformers_in_fp64(tmp_path):
    """As the paper and as its released code have it; the default sketch is as near as it says."""
    model, warm = os.environ["IDISTILL_MODEL"], tmp_path / "warm"
    prepare(tmp_path, model, pool=First(3, 120, 64), gsm8k=First(2, 120, 64))
    with TokenFile(tmp_path / "pool.h5") as file:
        tokens = [torch.from_numpy(tokens).long() for *_, tokens, _ in file]
    state, m, v = train(model, tokens, warm)
    reference = reference_of(warm)
    samples, targets = (gradients(reference, tmp_path / name).numpy() for name in ("pool.h5", "gsm8k.h5"))
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    assert state.step == 3

    def influence(name, *options):
        out = tmp_path / f"{name}.h5"
        run(1, "--model", model, "--pool", tmp_path / "pool.h5", "--target", f"gsm8k={tmp_path / 'gsm8k.h5'}", "--influence", "less",
            "--propagation", "none", "--checkpoint", f"{warm}:1", "--out", out, *options, timeout=300)
        with Result(out) as result:
            rows = result["influence"].astype(float)
            return rows[np.isfinite(rows).all(1)], result["task/influence_error"]

    expected = {}
    for form in ("paper", "released"):
        gamma = less_truth.steps(samples, m, v, state, form)
        expected[form] = gamma @ targets.T / np.linalg.norm(gamma, axis=1, keepdims=True)
    for form, option in (("paper", "on"), ("released", "off")):
        found, _ = influence(form, "--sketch", "none", "--bias-correction", option)
        np.testing.assert_allclose(found, expected[form], rtol=1e-4, atol=1e-6)
    assert np.abs(expected["paper"] - expected["released"]).max() > 1e-3
    sketched, error = influence("sketched")
    assert np.abs(sketched.mean(1) - expected["paper"].mean(1)).max() < 5 * error[0] < 0.01
