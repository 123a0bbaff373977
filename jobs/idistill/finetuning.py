"""Fine-tuning on the samples of an arm by a weighted loss, and the loss on samples that nobody selected for."""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, Trainer
from transformers.utils.logging import disable_progress_bar

from idistill.answers import exact_match, read_questions
from idistill.arguments import add_reading, positive, reading_of
from idistill.arms import ARMS, arm_samples, evaluation_examples, training_examples, within_budget
from idistill.chat_labels import ChatEncoder
from idistill.model_tokenizer import load_tokenizer
from idistill.training import IGNORED, Example, Examples, collate, has_bf16, trainer_arguments

VERSION = 3  # higher when the same options train or evaluate differently: outcomes are kept by it


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


def train(options: argparse.Namespace, model: torch.nn.Module, examples: list[Example]):
    with tempfile.TemporaryDirectory() as directory:
        arguments = trainer_arguments(
            options,
            Path(directory),
            num_train_epochs=options.epochs,
            activation_checkpointing=options.activation_checkpointing == "on",
            bf16=options.precision == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
        )
        trainer = WeightedTrainer(model, arguments, train_dataset=Examples(examples), data_collator=collate_weighted)
        trainer.train()


class Outcome(NamedTuple):
    """Of one run; losses by evaluation file."""

    samples: int
    tokens: int
    before: dict[str, float] | None  # None where it was not asked for
    after: dict[str, float]
    exact: dict[str, float]  # share of right answers, by file of --exact-match


def outcome_of(options: argparse.Namespace, also_before: bool = True) -> Outcome:
    """Raises ValueError and OSError."""
    disable_progress_bar()
    tokenizer = load_tokenizer(options.model)
    encoder, reading = ChatEncoder(tokenizer, options.max_length), reading_of(options)
    alike = reading._replace(sources=())  # of files that are no part of the pool
    examples = []
    if options.arm != "base":
        effective = options.loss_weights == "effective"
        samples = arm_samples(options.result, options.arm, options.task, options.seed, effective, options.list)
        examples = training_examples(within_budget(samples, options.tokens), options.pool, encoder, reading)
    evaluations = {path.stem: evaluation_examples(path, options.eval_samples, encoder, alike) for path in options.eval}
    questions = {path.stem: read_questions(path, options.eval_samples, alike) for path in options.exact_match}
    for option, given, named in (("--eval", options.eval, evaluations), ("--exact-match", options.exact_match, questions)):
        if len(named) < len(given):
            raise ValueError(f"{option}: {len(given)} files with {len(named)} names; expected names that differ, which tell their "
                             "figures apart")  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    if torch.cuda.is_available():
        model.cuda()

    def losses() -> dict[str, float]:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            return {name: evaluation_loss(model, own, options.micro_batch) for name, own in evaluations.items()}

    before = losses() if also_before else None
    if examples:
        train(options, model, examples)
    after = losses()
    if options.precision == "bfloat16":
        model.to(torch.bfloat16)  # autocast would convert all weights for every token again
    exact = {name: exact_match(model, tokenizer, own) for name, own in questions.items()}
    return Outcome(len(examples), sum(len(example.tokens) for example in examples), before, after, exact)


def parsed(words: list[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """Options of one run, as a comparison gives them too; by default of the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--result", type=Path, help="result of idistill_mpi")
    parser.add_argument("--pool", type=Path, nargs="+", metavar="FILE", help="what the pool was prepared from")
    parser.add_argument("--eval", type=Path, required=True, nargs="+", metavar="FILE", help="samples to evaluate on")
    parser.add_argument("--exact-match", type=Path, nargs="+", default=[], metavar="FILE",
                        help="samples to answer: the share of answers that are the sample's")  # fmt: skip
    parser.add_argument("--tokens", type=positive, metavar="N", help="budget of training tokens")
    parser.add_argument("--arm", choices=ARMS, default=ARMS[0], help="how samples are chosen (%(default)s)")
    parser.add_argument("--loss-weights", choices=["weight", "effective"], default="weight",
                        help="of the arm 'selected': the result's weights; or those over gradient norms, for which the weights of "
                        "a result with --normalize cosine are optimal (%(default)s)")  # fmt: skip
    parser.add_argument("--list", type=Path, metavar="FILE", help="of the arm 'listed': ids of the pool, a line each, best first")
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
    add_reading(parser)
    parser.add_argument("--seed", type=int, default=43, help="of what an arm draws, and of the order (%(default)s)")
    options = parser.parse_args(words)
    missing = [f"--{name}" for name in ("result", "pool", "tokens") if getattr(options, name) is None]
    if missing and options.arm != "base":
        parser.error(f"the arm {options.arm} needs {', '.join(missing)}")
    if (options.arm == "listed") != (options.list is not None):
        parser.error("--list and --arm listed need each other")
    return options
