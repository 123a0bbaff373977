"""The real model on a few real samples, from JSON lines to a result."""

import os

import numpy as np
from idistill.result import Result
from idistill.token_file import TokenFile
from program import run
from real_pool import First, gradients, needs_real_pool, prepare, reference_of


@needs_real_pool
def test_real_pool(tmp_path):
    model = os.environ["IDISTILL_MODEL"]
    prepare(tmp_path, model, pool=First(24, 100, 36), gsm8k=First(3, 130, 64))
    out = tmp_path / "weights.h5"
    run(2, "--model", model, "--pool", tmp_path / "pool.h5", "--target", f"gsm8k={tmp_path / 'gsm8k.h5'}", "--landmarks", 8,
        "--select", 6, "--out", out, timeout=300)
    with Result(out) as result, TokenFile(tmp_path / "pool.h5") as pool:
        assert result.texts("id") == pool.ids
        influence = result["influence"]
        usable = np.isfinite(influence).all(1)
        assert list(usable) == [bool(mask[1:].any()) for *_, mask in pool]
        assert 14 < usable.sum() < len(usable) and np.abs(influence[usable]).max() <= 1.01
        assert result["exact"].sum() == 8 and len(result["selected/index"]) == 6
        assert (result["gradient_norm"][usable] > 0).all()
        exact = influence[result["exact"] == 1]
        assert np.ptp(exact) > 0.01  # samples differ
    assert not (tmp_path / "weights.h5.state").exists()


@needs_real_pool
def test_without_a_sketch_influence_is_that_of_transformers_in_fp64(tmp_path):
    """Cosines of gradients of 26.5 million weights, with and without the contrast: none is off by more than 1e-4 of itself, or
    1e-6 where it is near 0."""
    model = os.environ["IDISTILL_MODEL"]
    prepare(tmp_path, model, pool=First(5, 120, 64), gsm8k=First(2, 120, 128))
    reference = reference_of(model)
    samples, targets = (gradients(reference, tmp_path / name) for name in ("pool.h5", "gsm8k.h5"))
    samples, targets = (rows / rows.norm(dim=1, keepdim=True) for rows in (samples, targets))
    mean = samples.mean(0)
    without = targets - (targets @ mean / mean.square().sum())[:, None] * mean
    for contrast, rows in ((0, targets), (128, without)):
        out = tmp_path / f"exact-{contrast}.h5"
        run(1, "--model", model, "--pool", tmp_path / "pool.h5", "--target", f"gsm8k={tmp_path / 'gsm8k.h5'}", "--propagation", "none",
            "--sketch", "none", "--contrast", contrast, "--out", out, timeout=300)
        with Result(out) as result:
            found = result["influence"].astype(float)
        expected = (samples @ rows.T).numpy()
        np.testing.assert_allclose(found[np.isfinite(found).all(1)], expected, rtol=1e-4, atol=1e-6)
