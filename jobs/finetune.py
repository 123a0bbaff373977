#!/usr/bin/env python3
"""Trains a model on what idistill_mpi selected, and says what that did to the loss on samples that nobody selected for.

An arm is a way to choose the training samples, all up to the same number of tokens:
    selected       those of the result, in order of selection, each loss times its weight
    best-sources   at random from the source of highest mean influence, then from the next, with equal weights
    random         at random from the whole pool, with equal weights
    base           none: the model as it is

AdamW of transformers' Trainer, learning rate falling linearly; the loss of a step is the mean over samples of weight times
mean token loss. Evaluation loss: mean over samples of the mean token loss, before and after.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from arguments import positive
from chat_labels import ChatEncoder, load_tokenizer
from export import find_samples
from result_file import read_selection
from samples import BadRow, Row, parse_sample, read_rows
from training import IGNORED, Example, Examples, collate, has_bf16, is_labelled

ARMS = ("selected", "best-sources", "random", "base")
VERSION = 1  # higher when the same options train or evaluate differently: compare_arms.py keeps outcomes by it


def sample_losses(model: torch.nn.Module, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """(n) mean cross entropy over every sample's labels; logits only where a sample has one."""
    labels = labels[:, 1:]
    labelled = (labels != IGNORED).any(0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=labelled.expand(len(labels), -1)).logits  # a row each: replicas scatter rows
    labels = labels[:, labelled]
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(1) / (labels != IGNORED).sum(1)


class WeightedTrainer(Trainer):
    loss_is_scaled_for_ga = False  # a mean over samples: Trainer divides by the number of micro-batches

    def compute_loss(self, model, inputs, *_, **__):
        weights, labels = inputs.pop("weights"), inputs.pop("labels")
        return (weights * sample_losses(model, inputs, labels)).mean()


def collate_weighted(examples: list[Example]) -> dict[str, torch.Tensor]:
    return {**collate(examples), "weights": torch.tensor([example.weight for example in examples])}


@torch.no_grad()
def evaluation_loss(model: torch.nn.Module, examples: list[Example], at_once: int) -> float:
    model.eval()
    total = 0.0
    by_length = sorted(examples, key=lambda example: len(example.tokens))
    for start in range(0, len(by_length), at_once):
        batch = {name: tensor.to(model.device) for name, tensor in collate(by_length[start : start + at_once]).items()}
        labels = batch.pop("labels")
        total += sample_losses(model, batch, labels).sum().item()
    return total / len(examples)


# --- samples of the arms ----------------------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """One training sample of an arm."""

    id: str
    tokens: int
    weight: float


def arm_samples(result: Path, arm: str, task: str | None, seed: int, effective: bool = False) -> list[Chosen]:
    """In the order in which the arm takes them. Raises ValueError and OSError."""
    selection = read_selection(result)  # which checks the file
    with h5py.File(result, "r") as file:
        tokens = file["tokens"][:]
        if arm == "selected":
            rows = file["selected/index"][:]
            weights = [own.effective_weight if effective else own.weight for own in selection]
            return [Chosen(own.id, int(tokens[row]), weight) for own, row, weight in zip(selection, rows, weights)]
        ids = [text.decode() for text in file["id"][:]]
        tasks = [text.decode() for text in file["task/name"][:]]
        if task is not None and task not in tasks:
            raise ValueError(f"{result}: has no task '{task}', only {', '.join(tasks)}")
        scores = file["score"][:].astype(float)
        scores = scores.mean(1) if task is None else scores[:, tasks.index(task)]
        scores[file["quarantine/index"][:]] = np.nan
        source = file["source/index"][:]
    order = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(scores)))
    if arm == "best-sources":
        means = {own: np.nanmean(scores[source == own]) for own in np.unique(source[order])}
        order = np.array(sorted(order, key=lambda row: -means[source[row]]))
    return [Chosen(ids[row], int(tokens[row]), 1.0) for row in order]


def within_budget(samples: list[Chosen], budget: int) -> list[Chosen]:
    """The first up to the one that exceeds the budget, their weights with mean 1. Raises ValueError."""
    used = np.cumsum([sample.tokens for sample in samples])
    if not len(used) or used[-1] < budget:
        raise ValueError(f"all {len(samples):,} samples of the arm have {used[-1] if len(used) else 0:,} tokens, fewer than "
                         f"--tokens {budget:,}; arms must be of one size to be compared: select more, or lower it")  # fmt: skip
    chosen = samples[: int(np.searchsorted(used, budget, "right"))]
    mean = sum(sample.weight for sample in chosen) / max(1, len(chosen))
    if mean <= 0:
        raise ValueError(f"--tokens {budget}: the first sample has {samples[0].tokens}; expected a larger budget")
    return [sample._replace(weight=sample.weight / mean) for sample in chosen]


def encode(row: Row, encoder: ChatEncoder) -> Example | None:
    """None for a sample without labels."""
    tokens, mask, *_ = encoder.encode([encoder.render(parse_sample(row).messages)])[0]
    return Example(tokens, mask) if is_labelled(mask) else None


def training_examples(chosen: list[Chosen], pool: list[Path], encoder: ChatEncoder) -> list[Example]:
    """Raises ValueError where the files are not what the pool was prepared from."""
    found = find_samples(pool, {sample.id for sample in chosen})
    examples = []
    for sample in chosen:
        example = encode(Row(found[sample.id].place, "", found[sample.id].fields), encoder)
        length = len(example.tokens) if example else 0
        if length != sample.tokens:
            raise ValueError(f"{found[sample.id].place}: sample '{sample.id}' has {length} tokens with labels, the result says "
                             f"{sample.tokens}; expected the model family and --max-length of the pool")  # fmt: skip
        examples.append(example._replace(weight=sample.weight))
    return examples


def evaluation_examples(path: Path, first: int | None, encoder: ChatEncoder) -> list[Example]:
    examples = [example for row in read_rows(path) if (example := encode(row, encoder))][:first]
    if not examples:
        raise ValueError(f"{path}: has no samples with labels; expected samples to evaluate on")
    return examples


# --- the run ----------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace, model: torch.nn.Module, examples: list[Example]):
    micro_batch = min(options.micro_batch, options.batch_size)
    if options.batch_size % micro_batch:
        raise ValueError(f"--batch-size {options.batch_size}: expected a multiple of --micro-batch {micro_batch}")
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=options.batch_size // micro_batch,
            optim="adamw_torch",
            learning_rate=options.learning_rate,
            activation_checkpointing=options.activation_checkpointing == "on",
            activation_checkpointing_kwargs={"use_reentrant": False},
            bf16=options.precision == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            seed=options.seed,
            disable_tqdm=not sys.stderr.isatty(),
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = WeightedTrainer(model, arguments, train_dataset=Examples(examples), data_collator=collate_weighted)
        trainer.train()


class Outcome(NamedTuple):
    """Of one run; losses by evaluation file."""

    samples: int
    tokens: int
    before: dict[str, float] | None  # None where it was not asked for
    after: dict[str, float]


def outcome_of(options: argparse.Namespace, also_before: bool = True) -> Outcome:
    """Raises ValueError and OSError."""
    disable_progress_bar()
    encoder = ChatEncoder(load_tokenizer(options.model), options.max_length)
    examples = []
    if options.arm != "base":
        effective = options.loss_weights == "effective"
        samples = arm_samples(options.result, options.arm, options.task, options.seed, effective)
        examples = training_examples(within_budget(samples, options.tokens), options.pool, encoder)
    evaluations = {path.stem: evaluation_examples(path, options.eval_samples, encoder) for path in options.eval}
    if len(evaluations) < len(options.eval):
        raise ValueError(f"--eval: {len(options.eval)} files with {len(evaluations)} names; expected names that differ, which tell "
                         "their losses apart")  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    if torch.cuda.is_available():
        model.cuda()

    def losses() -> dict[str, float]:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            return {name: evaluation_loss(model, own, options.micro_batch) for name, own in evaluations.items()}

    before = losses() if also_before else None
    if examples:
        train(options, model, examples)
    return Outcome(len(examples), sum(len(example.tokens) for example in examples), before, losses())


def run(options: argparse.Namespace):
    """Raises ValueError and OSError."""
    outcome = outcome_of(options)
    print(f"arm {options.arm}, seed {options.seed}: {outcome.samples:,} samples, {outcome.tokens:,} tokens")
    print(f"{'evaluation loss':24}  {'before':>8}  {'after':>8}")
    for name, after in outcome.after.items():
        print(f"{name:24}  {outcome.before[name]:8.4f}  {after:8.4f}")


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--result", type=Path, help="result of idistill_mpi")
    parser.add_argument("--pool", type=Path, nargs="+", metavar="FILE", help="what the pool was prepared from")
    parser.add_argument("--eval", type=Path, required=True, nargs="+", metavar="FILE", help="samples to evaluate on")
    parser.add_argument("--tokens", type=positive, metavar="N", help="budget of training tokens")
    parser.add_argument("--arm", choices=ARMS, default=ARMS[0], help="how samples are chosen (%(default)s)")
    parser.add_argument("--loss-weights", choices=["weight", "effective"], default="weight",
                        help="of the arm 'selected': the result's weights; or those over gradient norms, for which the weights of "
                        "a result with --normalize cosine are optimal (%(default)s)")  # fmt: skip
    parser.add_argument("--task", help="whose influence ranks the sources of best-sources (mean over all)")
    parser.add_argument("--eval-samples", type=positive, metavar="N", help="only the first N of every file")
    parser.add_argument("--epochs", type=positive, default=2, help="(%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="(%(default)s)")
    parser.add_argument("--batch-size", type=positive, default=8, help="samples per step (%(default)s)")
    parser.add_argument("--micro-batch", type=positive, default=4, help="samples at once; less takes less memory (%(default)s)")
    parser.add_argument("--activation-checkpointing", choices=["on", "off"], default="on",
                        help="compute activations again in the backward pass: less memory, a third more time (%(default)s)")  # fmt: skip
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16" if has_bf16() else "float32",
                        help="of matrix products, in training and evaluation; parameters are float32 (%(default)s: what this "
                        "machine's GPU has)")  # fmt: skip
    parser.add_argument("--max-length", type=positive, default=2048, help="tokens kept of a sample, as in prepare.py (%(default)s)")
    parser.add_argument("--seed", type=int, default=43, help="of what an arm draws, and of the order (%(default)s)")
    options = parser.parse_args(words)
    missing = [f"--{name}" for name in ("result", "pool", "tokens") if getattr(options, name) is None]
    if missing and options.arm != "base":
        parser.error(f"the arm {options.arm} needs {', '.join(missing)}")
    return options


def main():
    options = parsed()
    try:
        run(options)
    except (ValueError, OSError, BadRow) as error:
        sys.exit(f"finetune.py: {error}")


if __name__ == "__main__":
    main()
