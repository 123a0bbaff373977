"""The real model in 16 bits on real samples, on the CPU: what a GPU computes by default, against fp32."""

import os

import numpy as np
from idistill.result import Result
from idistill.token_file import TokenFile
from program import run
from real_pool import First, needs_real_pool, prepare
from scipy.stats import spearmanr

TARGETS = ("gsm8k", "bbh")


def relative(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


@needs_real_pool
def test_influence_keeps_its_order(tmp_path):
    """Every column's Spearman correlation with fp32 over 200 samples, exact; and predicted from 24 of them by tangents."""
    model = os.environ["IDISTILL_MODEL"]
    # 16 bits compute samples side by side, in room for the longest of them: those of gsm8k are of unequal lengths.
    prepare(tmp_path, model, pool=First(200, 50, 30), **{task: First(2, 120, 128) for task in TARGETS})
    with TokenFile(tmp_path / "gsm8k.h5") as file:
        assert len({len(tokens) for *_, tokens, _ in file}) == 2
    common = ["--model", model, "--pool", tmp_path / "pool.h5", "--contrast", 8]
    for task in TARGETS:
        common += ["--target", f"{task}={tmp_path / task}.h5"]
    results = {}
    for dtype in ("fp32", "bf16"):
        for name, options in (("exact", ["--propagation", "none"]), ("tangents", ["--landmarks", 24, "--embedding", "jvp"])):
            out = tmp_path / f"{name}-{dtype}.h5"
            run(1, *common, *options, "--dtype", dtype, "--out", out, timeout=600)
            with Result(out) as result:
                influence, norm = result["influence"].astype(float), result["gradient_norm"].astype(float)
                results[name, dtype] = influence, norm, result["exact"] == 1
    for name, least in (("exact", 0.995), ("tangents", 0.98)):
        truth, norms, _ = results[name, "fp32"]
        found, found_norms, _ = results[name, "bf16"]
        usable = np.isfinite(truth).all(1)
        assert (np.isfinite(found).all(1) == usable).all() and usable.sum() > 180
        orders = [spearmanr(truth[usable, c], found[usable, c]).statistic for c in range(truth.shape[1])]
        print(f"{name}: Spearman {min(orders):.4f} to {max(orders):.4f}, influence {relative(found[usable], truth[usable]):.4f}, "
              f"norms {relative(found_norms[usable], norms[usable]):.4f}")
        assert min(orders) > least, orders
        assert relative(found[usable], truth[usable]) < 0.1
        assert relative(found_norms[usable], norms[usable]) < 0.03
