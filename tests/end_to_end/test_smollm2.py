"""The real model on a few real samples, from JSON lines to a result."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from idistill.result import Result
from idistill.token_file import TokenFile
from program import run

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "pool.jsonl").exists(), reason="the real pool, ../shared/data/pool.jsonl, is not here")
def test_real_pool(tmp_path):
    model = os.environ["IDISTILL_MODEL"]
    for source, name, count in ((SHARED / "pool.jsonl", "pool", 24), (SHARED / "targets" / "gsm8k.target.jsonl", "gsm8k", 4)):
        with open(source, encoding="utf-8") as lines:
            (tmp_path / f"{name}.jsonl").write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
        subprocess.run([sys.executable, ROOT / "jobs" / "prepare.py", tmp_path / f"{name}.jsonl", "--model", model, "--out",
                        tmp_path / f"{name}.h5", "--max-length", "128"], check=True, capture_output=True, timeout=120)
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
