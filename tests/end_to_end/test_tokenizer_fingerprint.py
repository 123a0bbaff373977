"""The C++ fingerprint of a tokenizer against the one that jobs/prepare.py writes: a run warns exactly when they differ."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

from idistill.token_file import TokenFileWriter, tokenizer_sha256

WARNING = "was not prepared with the tokenizer"


def plan(model, token_file):
    command = [os.environ["IDISTILL_PROGRAM"], "plan", "--model", model, "--pool", token_file, "--target", f"t={token_file}",
               "--landmarks", "2", "--out", "unused.h5"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stderr


def write(path, fingerprint):
    with TokenFileWriter(path, fingerprint, 64) as file:
        for i in range(4):
            file.append(f"s{i}", "test", np.arange(5, 13, dtype=np.int32), np.ones(8, np.uint8))


def test_real_tokenizer(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(Path(os.environ["IDISTILL_MODEL"]) / name, model)
    (model / "model.safetensors").symlink_to((Path(os.environ["IDISTILL_MODEL"]) / "model.safetensors").resolve())
    text = (model / "tokenizer.json").read_text()
    write(tmp_path / "same.h5", tokenizer_sha256(text))
    assert WARNING not in plan(model, tmp_path / "same.h5")
    (model / "tokenizer.json").write_text(json.dumps(json.loads(text), indent=3, ensure_ascii=True))
    assert WARNING not in plan(model, tmp_path / "same.h5")

    changed = json.loads(text)
    changed["model"]["merges"] = changed["model"]["merges"][:-1]
    (model / "tokenizer.json").write_text(json.dumps(changed))
    assert WARNING in plan(model, tmp_path / "same.h5")
