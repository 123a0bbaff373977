import json
import re

import chat_models
import commands
import compare_arms
import finetune
import numpy as np
import pytest
import tiny_models
import torch
from idistill import comparison, finetuning
from idistill.arms import Chosen, arm_samples, evaluation_examples, within_budget
from idistill.chat_labels import ChatEncoder
from idistill.model_tokenizer import load_tokenizer
from idistill.samples import read_samples
from idistill.training import Example, Examples, collate
from result_files import write_result
from transformers import AutoModelForCausalLM, LlamaConfig, TrainingArguments

run, refused = commands.of(finetune)
compare, not_compared = commands.of(compare_arms)

SOURCES = ["bad", "good", "middling"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, a pool of 30 samples of which those of `good` are like the evaluation samples, and a result."""
    directory = tmp_path_factory.mktemp("finetune")
    chat_models.save("chatml", directory / "model")
    torch.manual_seed(0)
    vocabulary = len(load_tokenizer(directory / "model"))
    sizes = {**tiny_models.SIZES, "vocab_size": vocabulary}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(directory / "model")
    said = {"bad": "你好，世界。", "good": "The capital of France is Paris.", "middling": "Thank you, goodbye!"}
    pool = [
        {"id": f"s{i}", "source": SOURCES[i % 3], "prompt": f"hello {i}", "completion": said[SOURCES[i % 3]]} for i in range(30)
    ]
    write_lines(directory / "pool.jsonl", pool)
    write_lines(directory / "eval.jsonl", [{"prompt": f"hello {i}", "completion": said["good"]} for i in range(50, 56)])
    encoder = ChatEncoder(load_tokenizer(directory / "model"), 2048)
    samples = read_samples(directory / "pool.jsonl")
    lengths = [len(encoder.encode([encoder.render(sample)])[0].tokens) for sample in samples]
    score = np.array([[i % 3 == 1, 0.1 * (i % 3 == 2)] for i in range(30)], float)
    score[4] = np.nan
    write_result(
        directory / "result.h5", ids=[row["id"] for row in pool], sources=[row["source"] for row in pool], scores=score,
        tasks=["t", "u"], columns=["t"], column_task=[0], selected=[1, 7, 10, 13, 16, 19], selected_columns=[0] * 6,
        weights=[2, 1, 1, 1, 0.5, 0.5], quarantined=[4], norms=[2] * 10 + [1] * 20,
        tokens=lengths,
    )  # fmt: skip
    return directory


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def arguments(files, *extra):
    own = ["--model", files / "model", "--result", files / "result.h5", "--pool", files / "pool.jsonl", "--eval",
           files / "eval.jsonl", "--tokens", 130, "--learning-rate", "1e-2", "--batch-size", 2, "--micro-batch", 1]  # fmt: skip
    return [*own, *extra]


def test_loss_after_training_on_each_arm(files, monkeypatch, capsys):
    after = {}
    for arm in ("selected", "best-sources", "random"):
        run(monkeypatch, *arguments(files, "--arm", arm, "--eval-samples", 4))
        said = capsys.readouterr().out.splitlines()
        assert said[-3].startswith(f"arm {arm}, seed 43: ")
        name, before, after[arm] = said[-1].split()
        assert name == "eval" and float(after[arm]) < float(before)
    assert float(after["selected"]) < float(after["random"]) > float(after["best-sources"])


def test_right_answers_are_counted(files, monkeypatch, capsys):
    """Trained until it says what the samples say."""
    run(monkeypatch, *arguments(files, "--epochs", 12, "--exact-match", files / "eval.jsonl"))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["eval,", "right", "answers", "100.0", "%"]
    base = finetuning.parsed(["--model", str(files / "model"), "--eval", str(files / "eval.jsonl"), "--arm", "base", "--exact-match",
                              str(files / "eval.jsonl")])  # fmt: skip
    assert finetuning.outcome_of(base).exact == {"eval": 0.0}


def test_files_that_are_read_as_the_pool_was(files):
    """The same samples in columns of other names, in a directory, give the same outcome."""
    options = {}
    for name in ("pool", "eval"):
        rows = [json.loads(line) for line in (files / f"{name}.jsonl").read_text().splitlines()]
        (files / "renamed" / name).mkdir(parents=True, exist_ok=True)
        renamed = [{{"prompt": "Q", "completion": "A"}.get(column, column): value for column, value in row.items()} for row in rows]
        write_lines(files / "renamed" / name / f"{name}.jsonl", renamed)
        options[f"--{name}"] = files / "renamed" / name
    words = arguments(files, "--arm", "random", "--epochs", 1)
    swapped = [options.get(before, word) for before, word in zip(["", *words], words)]
    plain = finetuning.outcome_of(finetuning.parsed(list(map(str, words))))
    read = finetuning.parsed([*map(str, swapped), "--columns", "prompt=Q,completion=A"])
    assert finetuning.outcome_of(read) == plain
    assert {path.name for path in comparison.inputs_of(read)} == {"model", "result.h5", "pool.jsonl", "eval.jsonl"}


def test_the_model_as_it_is(files):
    options = finetuning.parsed(["--model", str(files / "model"), "--eval", str(files / "eval.jsonl"), "--arm", "base"])
    outcome = finetuning.outcome_of(options)
    assert outcome.samples == 0 and outcome.before == outcome.after
    with pytest.raises(SystemExit):
        finetuning.parsed(["--model", "m", "--eval", "e"])


def test_arms(files):
    selected = arm_samples(files / "result.h5", "selected", None, 1)
    assert [own.id for own in selected] == ["s1", "s7", "s10", "s13", "s16", "s19"] and selected[0].weight == 2
    effective = [own.weight for own in arm_samples(files / "result.h5", "selected", None, 1, effective=True)]
    np.testing.assert_allclose(effective, np.array([1, 0.5, 1, 1, 0.5, 0.5]) * 6 / 4.5)
    ids = {arm: [own.id for own in arm_samples(files / "result.h5", arm, None, 1)] for arm in ("random", "best-sources")}
    assert set(ids["random"]) == set(ids["best-sources"]) == {f"s{i}" for i in range(30)} - {"s4"}
    assert [int(own[1:]) % 3 for own in ids["best-sources"]] == [1] * 9 + [2] * 10 + [0] * 10
    assert ids["best-sources"][:9] == [own for own in ids["random"] if int(own[1:]) % 3 == 1]
    of_u = arm_samples(files / "result.h5", "best-sources", "u", 1)
    assert int(of_u[0].id[1:]) % 3 == 2
    assert ids["random"] != [own.id for own in arm_samples(files / "result.h5", "random", None, 2)]
    listed = files / "listed.txt"
    listed.write_text("s9\ns4\ns2\n")  # s4 was quarantined
    assert [own.id for own in arm_samples(files / "result.h5", "listed", None, 1, listed=listed)] == ["s9", "s2"]
    for text, problem in [("s9\nnone\nother\n", "2 lines are no ids of the result's pool, 'none' first"), ("s9\ns9\n", "lists 1 ids again")]:
        listed.write_text(text)
        with pytest.raises(ValueError, match=problem):
            arm_samples(files / "result.h5", "listed", None, 1, listed=listed)
    with pytest.raises(ValueError, match="no task 'v', only t, u"):
        arm_samples(files / "result.h5", "random", "v", 1)


def test_budget():
    samples = [Chosen("a", 5, 3.0), Chosen("b", 5, 1.0), Chosen("c", 5, 1.0)]
    assert [(own.id, own.weight) for own in within_budget(samples, 14)] == [("a", 1.5), ("b", 0.5)]
    assert len(within_budget(samples, 15)) == 3
    for budget, problem in [(16, "fewer than --tokens 16"), (4, "the first sample has 5")]:
        with pytest.raises(ValueError, match=problem):
            within_budget(samples, budget)
    with pytest.raises(ValueError, match="fewer than"):
        within_budget([], 1)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_a_step_is_that_of_the_weighted_mean(micro_batch, tmp_path):
    """Whatever the micro-batches; by plain SGD, whose step shows the gradient."""
    random = np.random.default_rng(0)
    examples = []
    for weight in (0.5, 2.0, 1.0, 0.5):
        tokens = random.integers(2, 90, int(random.integers(5, 12))).astype(np.int32)
        examples.append(Example(tokens, (np.arange(len(tokens)) > 2).astype(np.uint8), weight))
    model = tiny_models.load(tiny_models.save_model("llama", tmp_path / "model"))
    parameter = model.model.layers[1].mlp.down_proj.weight
    losses = []
    for example in examples:
        tokens = torch.from_numpy(example.tokens).long()
        log_probabilities = model(tokens[None]).logits[0].log_softmax(-1)
        losses.append(-example.weight * torch.stack([log_probabilities[p - 1, tokens[p]] for p in range(3, len(tokens))]).mean())
    expected = parameter.detach() - 0.1 * torch.autograd.grad(torch.stack(losses).mean(), parameter)[0]
    own = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=micro_batch, gradient_accumulation_steps=4 // micro_batch,
        optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0, report_to="none",
        save_strategy="no", remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = finetuning.WeightedTrainer(model, own, train_dataset=Examples(examples), data_collator=finetuning.collate_weighted)
    trainer.train()
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


def test_a_bad_row_of_an_evaluation_is_named(files, tmp_path):
    encoder = ChatEncoder(load_tokenizer(files / "model"), 2048)
    write_lines(tmp_path / "bad.jsonl", [{"prompt": "a", "completion": "b"}, {"prompt": "a"}])
    with pytest.raises(ValueError, match=r"bad\.jsonl: line 2: found 'prompt'"):
        evaluation_examples(tmp_path / "bad.jsonl", None, encoder)


def test_evaluation_loss_is_that_of_transformers_whatever_the_batches(files):
    model = AutoModelForCausalLM.from_pretrained(files / "model", dtype=torch.float32)
    encoder = ChatEncoder(load_tokenizer(files / "model"), 2048)
    examples = evaluation_examples(files / "pool.jsonl", None, encoder)
    one, seven = (finetuning.evaluation_loss(model, examples, at_once) for at_once in (1, 7))
    assert len(examples) == 30 and one == pytest.approx(seven, rel=1e-5)
    batches = [collate([example]) for example in examples]
    with torch.no_grad():
        assert one == pytest.approx(np.mean([model(**batch).loss.item() for batch in batches]), rel=1e-5)


def test_products_in_bfloat16(files, monkeypatch):
    full, half = (finetuning.outcome_of(finetuning.parsed([*map(str, arguments(files)), "--precision", precision]))
                  for precision in ("float32", "bfloat16"))  # fmt: skip
    for expected, found in ((full.before, half.before), (full.after, half.after)):
        assert found["eval"] != expected["eval"] and found["eval"] == pytest.approx(expected["eval"], rel=0.02)

    evaluated = finetuning.evaluation_loss

    def in_float32(*words):
        with torch.autocast("cpu", enabled=False):
            return evaluated(*words)

    monkeypatch.setattr(finetuning, "evaluation_loss", in_float32)
    trained = finetuning.outcome_of(finetuning.parsed([*map(str, arguments(files)), "--precision", "bfloat16"]))
    assert trained.before == full.before and trained.after != full.after  # so training has them too


def test_what_is_refused(files, tmp_path, monkeypatch):
    assert "expected the model family and --max-length" in refused(monkeypatch, *arguments(files, "--max-length", 25))
    assert "fewer than --tokens" in refused(monkeypatch, *arguments(files, "--tokens", 10**6))
    (tmp_path / "empty.jsonl").write_text("")
    assert "has no samples with labels" in refused(monkeypatch, *arguments(files, "--eval", tmp_path / "empty.jsonl"))
    assert "multiple of --micro-batch" in refused(monkeypatch, *arguments(files, "--batch-size", 3, "--micro-batch", 2))
    (tmp_path / "bad.jsonl").write_text('{"text": 1}\n')
    assert "expected 'messages'" in refused(monkeypatch, *arguments(files, "--eval", tmp_path / "bad.jsonl"))


@pytest.fixture
def arms(files, tmp_path):
    text = f"""
    model = "{files / "model"}"
    pool = ["{files / "pool.jsonl"}"]
    eval = ["{files / "eval.jsonl"}"]
    tokens = [130]
    seeds = [1, 2]
    learning-rate = 1e-2
    [arms]
    "best, of t" = {{ result = "{files}/result_{{tokens}}.h5", arm = "best-sources", task = "t" }}
    random = {{ result = "{files}/result.h5", arm = "random" }}
    """
    (files / "result_130.h5").write_bytes((files / "result.h5").read_bytes())
    path = tmp_path / "arms.toml"
    path.write_text(text)
    return path


def test_a_comparison_is_what_its_runs_say(files, arms, tmp_path, monkeypatch, capsys):
    out = tmp_path / "outcomes"
    compare(monkeypatch, arms, "--out", out, "--at-once", 2)
    header, base, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["tokens", "arm", "samples", "eval", "mean"] and base.split()[:2] == ["0", "base"]
    losses = {}
    for arm, *own in (("random",), ("best-sources", "--task", "t")):
        every = [arguments(files, "--arm", arm, *own, "--seed", seed, "--batch-size", 8, "--micro-batch", 4) for seed in (1, 2)]
        losses[arm] = np.array([finetuning.outcome_of(finetuning.parsed(list(map(str, words)))).after["eval"] for words in every])
    for row, own in zip(rows, (losses["best-sources"], losses["random"])):
        assert f"{own.mean():.3f} +-{own.std(ddof=1):.3f}" in row
    paired = losses["best-sources"] - losses["random"]
    assert "best, of t" in rows[0] and rows[0].endswith(f"  {paired.mean():+.3f} +-{paired.std(ddof=1) / 2**0.5:.3f}")
    assert rows[1].split()[1] == "random" and rows[1].endswith(f"+-{losses['random'].std(ddof=1):.3f}")

    capsys.readouterr()
    monkeypatch.setattr(comparison, "compute", None)  # nothing is computed again
    compare(monkeypatch, arms, "--out", out)
    assert capsys.readouterr().out.splitlines()[1:] == [base, *rows]
    next(path for path in out.iterdir() if json.loads(path.read_text())["arm"] == "random").unlink()
    compare(monkeypatch, arms, "--out", out, "--show")
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 5 runs are done"


def test_what_a_comparison_refuses(arms, tmp_path, monkeypatch):
    text = arms.read_text()
    for wrong, problem in [
        (text.replace("seeds", "sedes"), "seeds: is missing"),
        (text.replace(', task = "t"', ', task = "v"'), "arm best, of t, 130 tokens, seed 1: .*no task 'v', only t, u"),
        (text + "other = {}", "arms.other: has no result"),
        (text.replace('task = "t"', 'tusk = "t"'), "arm best, of t: .*unrecognized arguments: --tusk"),
    ]:
        arms.write_text(wrong)
        assert re.search(problem, not_compared(monkeypatch, arms, "--out", tmp_path / "o"))
    arms.write_text(text)
    assert "has no outcomes yet" in not_compared(monkeypatch, arms, "--out", tmp_path / "p", "--show")
