"""The models and token files that speed on a GPU is measured with."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from idistill.token_file import TokenFile
from tiny_models import load

GPU_MODELS = Path(__file__).resolve().parents[1] / "support" / "python" / "gpu_models.py"


def make(*arguments):
    subprocess.run([sys.executable, GPU_MODELS, *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gpu_models") / "model"
    make("model", "tiny", "--out", out)
    return out


def test_every_weight_of_the_model_is_read_and_is_as_said(directory):
    found = load(directory).state_dict()
    del found["lm_head.weight"]  # tied
    assert len(found) == 2 + 5 * 9
    for name, weights in found.items():
        assert weights.mean().item() == pytest.approx(float("norm" in name), abs=0.01)
        assert weights.std().item() == pytest.approx(0.02, rel=0.35 if weights.ndim == 1 else 0.05)


def test_the_model_knows_nothing_yet(directory):
    tokens = torch.randint(3, 512, (4, 64), generator=torch.Generator().manual_seed(1))
    assert load(directory)(input_ids=tokens, labels=tokens).loss.item() == pytest.approx(np.log(512), rel=0.05)


def test_samples_have_the_lengths_of_a_pool(tmp_path):
    make("tokens", "--vocabulary", 512, "--samples", 4000, "--out", tmp_path / "pool.h5")
    with TokenFile(tmp_path / "pool.h5") as file:
        lengths = np.diff(file.offsets)
        labels = np.array([mask.sum() for *_, mask in file])
        tokens = np.concatenate([tokens for *_, tokens, _ in file])
        assert file.content_sha256() == file.attributes["content_sha256"]
    assert len(lengths) == 4000 and lengths.max() == 512 and (labels < lengths).all() and labels.min() > 0
    assert lengths.mean() == pytest.approx(191, rel=0.03) and labels.mean() == pytest.approx(60, rel=0.06)
    assert tokens.min() == 3 and tokens.max() == 511
