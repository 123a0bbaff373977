"""What TRL, as installed, makes of export.py --for trl."""

import subprocess
import sys

import commands
import datasets
import export
import pytest
import torch
from chat_models import CHATML
from export_files import LONGEST, SELECTED, WEIGHTS, prepared_labels, save_model, write_selection
from idistill import trl_train
from transformers import AutoModelForCausalLM
from trl import SFTConfig

run, refused = commands.of(export)

MARKED = CHATML.replace(
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}",
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}",
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def exported(monkeypatch, tmp_path, template, *options, generation=None):
    model = save_model(tmp_path / "model", template, generation)
    result, pool = write_selection(tmp_path, model)
    run(monkeypatch, result, "--pool", pool, "--for", "trl", "--max-length", LONGEST, "--out", tmp_path / "out", *options)
    return tmp_path / "out"


def trainer(out, **own):
    arguments = SFTConfig(
        str(out / "model"), use_cpu=True, bf16=False, max_length=LONGEST, report_to="none", remove_unused_columns=False,
        save_strategy="no", disable_tqdm=True, **own,
    )  # fmt: skip
    [file] = [path for path in out.glob("train.*") if path.suffix in trl_train.READERS]
    data = datasets.load_dataset(trl_train.READERS[file.suffix], data_files=str(file), split="train")
    return trl_train.SampleMeanTrainer(str(out.parent / "model"), arguments, train_dataset=data)


@pytest.mark.parametrize("template", ["chatml", "llama3", "llama2", "reasoning"])
def test_trl_trains_on_the_tokens_and_labels_of_the_token_file(template, tmp_path, monkeypatch):
    out = exported(monkeypatch, tmp_path, template)
    data = trainer(out).train_dataset
    assert [(row["input_ids"], row["labels"]) for row in data] == prepared_labels(tmp_path)
    assert data["weight"] == pytest.approx(WEIGHTS)


def test_conversations_where_the_template_marks_what_the_assistant_writes(tmp_path, monkeypatch):
    out = exported(monkeypatch, tmp_path, "chatml", "--data", "chat", generation=MARKED)
    assert "assistant_only_loss: true" in (out / "training.yaml").read_text()
    data = trainer(out, assistant_only_loss=True).train_dataset
    assert [(row["input_ids"], row["labels"]) for row in data] == prepared_labels(tmp_path)
    assert data["weight"] == pytest.approx(WEIGHTS)


def test_conversations_are_refused_where_trl_would_label_otherwise(tmp_path, monkeypatch):
    result, pool = write_selection(tmp_path, save_model(tmp_path / "model", "chatml"))
    own = [result, "--pool", pool, "--for", "trl", "--max-length", LONGEST, "--out", tmp_path / "out"]
    message = refused(monkeypatch, *own, "--data", "chat")
    assert "line 8: TRL would give sample 'pool-8-" in message and "give --data tokens" in message
    assert not list(tmp_path.glob("out*"))


def sample_losses(model, data) -> torch.Tensor:
    """Mean token loss of every sample alone, token by token."""
    losses = []
    for row in data:
        log_probabilities = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        losses.append(-torch.stack([log_probabilities[p - 1, t] for p, t in enumerate(row["labels"]) if t != -100]).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("options,weights", [
    ((), WEIGHTS), (("--weights", "none"), [1.0] * 6),
    (("--loss-weights", "effective"), [w / n for w, n in zip(WEIGHTS, [2.0, 4.0, 4.0, 2.0, 1.0, 1.0])]),
], ids=["weight", "none", "effective"])  # fmt: skip
def test_the_loss_is_the_weighted_mean_of_mean_token_losses(options, weights, tmp_path, monkeypatch):
    own = trainer(exported(monkeypatch, tmp_path, "chatml", *options), per_device_train_batch_size=6)
    weights = torch.tensor(weights) * 6 / sum(weights)
    [batch] = own.get_train_dataloader()
    with torch.no_grad():
        found = own.compute_loss(own.model, batch)
        torch.testing.assert_close(found, (weights * sample_losses(own.model, own.train_dataset)).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_a_step_follows_the_gradient_of_that_loss_whatever_the_micro_batches(micro_batch, tmp_path, monkeypatch):
    out = exported(monkeypatch, tmp_path, "chatml")
    own = trainer(
        out, per_device_train_batch_size=micro_batch, gradient_accumulation_steps=6 // micro_batch, max_steps=1, optim="sgd",
        learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0,
    )  # fmt: skip
    parameter = own.model.model.layers[1].mlp.up_proj.weight
    loss = (torch.tensor(WEIGHTS) * sample_losses(own.model, own.train_dataset)).mean()
    expected = parameter.detach() - 0.1 * torch.autograd.grad(loss, parameter)[0]
    own.train()
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_command_that_is_printed_trains(tmp_path, monkeypatch, capsys):
    out = exported(monkeypatch, tmp_path, "chatml")
    directory, _, command = capsys.readouterr().out.splitlines()[-1].removeprefix("cd ").partition(" && ")
    assert directory == str(out) and command == "python train.py --config training.yaml"
    words = [sys.executable, *command.split()[1:], "--use_cpu", "true", "--bf16", "false", "--learning_rate", "1e-2",
             "--gradient_accumulation_steps", "3"]  # fmt: skip
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(words, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = datasets.load_dataset("parquet", data_files=str(out / "train.parquet"), split="train")
    before, after = map(AutoModelForCausalLM.from_pretrained, (tmp_path / "model", out / "model"))
    with torch.no_grad():
        assert (sample_losses(after, data) < sample_losses(before, data) - 0.1).all()
