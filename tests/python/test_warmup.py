import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chat_models
import commands
import numpy as np
import pytest
import tiny_models
import torch
import warmup
from idistill import optimizer_file
from idistill import training
from idistill.optimizer_conversion import model_parameters
from idistill.token_file import TokenFile
from idistill.training import collate, last_checkpoint, random_part
from safetensors.torch import load_file

run, refused = commands.of(warmup)

JOBS = Path(__file__).resolve().parents[2] / "jobs"
OPTIONS = ["--samples", "24", "--batch-size", "4", "--micro-batch", "2", "--learning-rate", "1e-3", "--weight-decay", "0.1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("warmup")
    tiny_models.save_model("llama", directory / "model")
    chat_models.save("chatml", directory / "model")
    tiny_models.write_tokens(directory / "pool.h5", 40, 1, without_labels=4)
    return directory


def arguments(files, out, *extra):
    return ["--model", files / "model", "--pool", files / "pool.h5", "--out", out, *OPTIONS, *extra]


@pytest.fixture(scope="module")
def warm(files):
    """A run without interruption."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, *arguments(files, files / "warm"))
    return files / "warm"


def test_a_model_directory_with_its_optimizer(files, warm):
    names = {path.name for path in warm.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "optimizer.safetensors"} <= names
    assert not (files / "warm.partial").exists()
    assert (warm / "tokenizer.json").read_bytes() == (files / "model" / "tokenizer.json").read_bytes()
    before, after = tiny_models.load(files / "model"), tiny_models.load(warm)
    assert all(not torch.equal(p, q) for p, q in zip(before.parameters(), after.parameters()))
    assert json.loads((warm / "config.json").read_text())["use_cache"] is True
    shapes = model_parameters(warm).shapes
    state = optimizer_file.read(warm / "optimizer.safetensors", shapes)
    assert (state.kind, state.step, state.learning_rate, state.weight_decay) == ("adamw", 6, 1e-3, 0.1)
    assert set(state.moments["exp_avg"]) == set(shapes) and all(v.max() > 0 for v in state.moments["exp_avg_sq"].values())


@pytest.mark.skipif("IDISTILL_PROGRAM" not in os.environ, reason="the program is given by CTest")
def test_the_program_takes_model_and_optimizer(files, warm, tmp_path):
    command = [os.environ["IDISTILL_PROGRAM"], "--model", warm, "--optimizer", warm / "optimizer.safetensors", "--pool",
               files / "pool.h5", "--target", f"t={files / 'pool.h5'}", "--propagation", "none", "--out", tmp_path / "o.h5"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_loss_counts_labels_alone(files):
    """A step changes nothing for tokens without label: their labels are -100, and padding is not attended to."""
    examples = random_part([files / "pool.h5"], "8", 1)
    batch = collate(examples)
    model = tiny_models.load(files / "model").eval()
    own = []
    for example in examples:
        tokens = torch.from_numpy(example.tokens).long()
        labelled = [p for p in range(1, len(tokens)) if example.mask[p]]
        log_probabilities = model(tokens[None]).logits[0].log_softmax(-1)
        own += [-log_probabilities[p - 1, tokens[p]] for p in labelled]
    assert model(**batch).loss.item() == pytest.approx(torch.stack(own).mean().item(), rel=1e-5)


def test_the_part_is_random_seeded_and_has_labels(files):
    def drawn(part, seed, paths=1):
        return [tuple(e.tokens.tolist()) for e in random_part([files / "pool.h5"] * paths, part, seed)]

    with TokenFile(files / "pool.h5") as file:
        labelled = {tuple(file[row][0].tolist()) for row in range(4, 40)}
    assert set(drawn("36", 1)) == labelled
    assert drawn("10", 1) == drawn("25%", 1) == drawn("36", 1)[:10] != drawn("10", 2)
    assert len(drawn("72", 1, paths=2)) == 72 and len(drawn("1%", 1)) == 1
    for part, problem in [("37", "36 samples with labels"), ("41", "between 1 and the 40"), ("0", "between 1"), ("x", "a number")]:
        with pytest.raises(ValueError, match=problem):
            drawn(part, 1)


def test_a_killed_run_continues_to_the_same_model(files, warm, tmp_path, monkeypatch):
    own = list(map(str, arguments(files, tmp_path / "warm")))
    checkpoints = tmp_path / "warm.partial" / "checkpoints"
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # that sums are rounded alike
    with subprocess.Popen([sys.executable, JOBS / "warmup.py", *own], stderr=subprocess.DEVNULL, env=threads) as process:
        deadline = time.monotonic() + 120
        while not (found := last_checkpoint(checkpoints)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "warm").exists() and int(found.name.partition("-")[2]) < 6
    (checkpoints / "checkpoint-99").mkdir()  # killed while it was written
    assert last_checkpoint(checkpoints).name != "checkpoint-99"

    assert "now 9" in refused(monkeypatch, *own, "--seed", 9)
    run(monkeypatch, *own)
    assert not (tmp_path / "warm.partial").exists()
    for name in ("model.safetensors", "optimizer.safetensors"):
        found, expected = load_file(tmp_path / "warm" / name), load_file(warm / name)
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_a_run_killed_after_its_last_step_is_completed(files, tmp_path, monkeypatch):
    monkeypatch.setattr("idistill.warm_up.assemble", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    assert "no space left" in refused(monkeypatch, *arguments(files, tmp_path / "warm", "--max-steps", 2))
    assert not (tmp_path / "warm").exists()
    monkeypatch.undo()
    run(monkeypatch, *arguments(files, tmp_path / "warm", "--max-steps", 2))
    shapes = model_parameters(tmp_path / "warm").shapes
    assert optimizer_file.read(tmp_path / "warm" / "optimizer.safetensors", shapes).step == 2


def test_what_is_refused(files, warm, tmp_path, monkeypatch):
    assert "exists already" in refused(monkeypatch, *arguments(files, warm))
    assert "config.json" in refused(monkeypatch, *arguments(files, tmp_path / "o"), "--model", tmp_path)
    assert "multiple of --micro-batch" in refused(monkeypatch, *arguments(files, tmp_path / "o", "--batch-size", 5))
    assert not (tmp_path / "o").exists()


def test_bf16_only_where_a_gpu_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not training.has_bf16()
    example = training.Example(np.array([5, 6], np.int32), np.array([1, 0], np.uint8))
    assert np.array_equal(collate([example])["labels"], [[5, -100]])
