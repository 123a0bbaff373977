"""Training with transformers' Trainer on tokenised samples: what warming a model up and fine-tuning it share."""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from idistill.arguments import count_or_percent
from idistill.token_file import TokenFile, is_labelled

IGNORED = -100  # the label of tokens that do not count


class Example(NamedTuple):
    tokens: np.ndarray  # (n) int32
    mask: np.ndarray  # (n) uint8, 1 where predicting this token counts
    weight: float = 1.0


class Examples(Dataset):
    """As Trainer reads them."""

    def __init__(self, examples: list[Example]):
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
    """Padded on the right, with label IGNORED there and where the mask is 0."""
    longest = max(len(example.tokens) for example in examples)
    shape = (len(examples), longest)
    ids, attention = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for i, example in enumerate(examples):
        length = len(example.tokens)
        tokens = torch.from_numpy(example.tokens).long()
        ids[i, :length], attention[i, :length] = tokens, 1
        labels[i, :length] = torch.where(torch.from_numpy(example.mask).bool(), tokens, IGNORED)
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def random_part(paths: list[Path], part: str, seed: int) -> list[Example]:
    """A seeded random part, as "5%" of all samples (at least 1) or as a number, of those with labels. Raises ValueError."""
    files = [TokenFile(path) for path in paths]
    try:
        ends = np.cumsum([len(file) for file in files])
        count = count_or_percent("--samples", part, int(ends[-1]))
        drawn = []
        for row in np.random.default_rng(seed).permutation(ends[-1]):
            of_file = int(np.searchsorted(ends, row, "right"))
            tokens, mask = files[of_file][int(row - ends[of_file] + len(files[of_file]))]
            if is_labelled(mask):
                drawn.append(Example(tokens, mask))
            if len(drawn) == count:
                return drawn
    finally:
        for file in files:
            file.close()
    raise ValueError(f"{', '.join(map(str, paths))}: {len(drawn)} samples with labels; expected {count} (--samples {part})")


def trainer_arguments(options: argparse.Namespace, directory: Path, **own) -> TrainingArguments:
    """AdamW with gradient checkpointing where asked for, steps of --batch-size samples. Raises ValueError."""
    micro_batch = min(options.micro_batch, options.batch_size)
    if options.batch_size % micro_batch:
        raise ValueError(f"--batch-size {options.batch_size}: expected a multiple of --micro-batch {micro_batch}")
    return TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=options.batch_size // micro_batch,
        optim="adamw_torch",
        learning_rate=options.learning_rate,
        activation_checkpointing_kwargs={"use_reentrant": False},
        report_to="none",
        seed=options.seed,
        disable_tqdm=not sys.stderr.isatty(),
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **own,
    )


def has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of Trainer that is whole: it writes trainer_state.json last."""
    checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for checkpoint in checkpoints:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
            return checkpoint
        except (OSError, ValueError):
            continue
    return None
