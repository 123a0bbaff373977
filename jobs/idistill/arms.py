"""Arms of a comparison: ways to choose the samples to train on, and their tokens."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from idistill.chat_labels import ChatEncoder
from idistill.result import Result
from idistill.rows import Reading, naming
from idistill.samples import Sample, parse_sample, read_rows
from idistill.selected_samples import find_samples
from idistill.token_file import is_labelled
from idistill.training import Example

ARMS = ("selected", "best-sources", "random", "listed", "base")


class Chosen(NamedTuple):
    """One training sample of an arm."""

    id: str
    tokens: int
    weight: float


def arm_samples(
    path: Path, arm: str, task: str | None, seed: int, effective: bool = False, listed: Path | None = None
) -> list[Chosen]:
    """Of a result, in the order in which the arm takes them; `listed`: file of the arm of this name.

    Raises ValueError and OSError.
    """
    with Result(path) as result:
        tokens = result["tokens"]
        if arm == "selected":
            return [Chosen(own.id, int(tokens[own.row]), own.effective_weight if effective else own.weight)
                    for own in result.selection()]  # fmt: skip
        ids, scores, source = result.texts("id"), result.scores(task), result["source/index"]
    eligible = np.flatnonzero(np.isfinite(scores))
    if arm == "listed":
        return [Chosen(ids[row], int(tokens[row]), 1.0) for row in listed_rows(listed, ids, eligible)]
    order = np.random.default_rng(seed).permutation(eligible)
    if arm == "best-sources":
        means = {own: np.nanmean(scores[source == own]) for own in np.unique(source[order])}
        order = np.array(sorted(order, key=lambda row: -means[source[row]]))
    return [Chosen(ids[row], int(tokens[row]), 1.0) for row in order]


def listed_rows(path: Path, ids: list[str], eligible: np.ndarray) -> list[int]:
    """Eligible rows of the pool whose ids the file lists, a line each, in its order. Raises ValueError and OSError."""
    place = {own: row for row, own in enumerate(ids)}
    named = path.read_text(encoding="utf-8").splitlines()
    if unknown := [own for own in named if own not in place]:
        raise ValueError(f"{path}: {len(unknown)} lines are no ids of the result's pool, '{unknown[0]}' first; expected an id of it in "
                         "every line")  # fmt: skip
    if len(set(named)) < len(named):
        raise ValueError(f"{path}: lists {len(named) - len(set(named))} ids again; expected every id once")
    allowed = set(eligible.tolist())
    return [place[own] for own in named if place[own] in allowed]


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


def encode(sample: Sample, encoder: ChatEncoder) -> Example | None:
    """None for a sample without labels."""
    tokens, mask, *_ = encoder.encode_sample(sample)
    return Example(tokens, mask) if is_labelled(mask) else None


def training_examples(chosen: list[Chosen], pool: list[Path], encoder: ChatEncoder, reading: Reading = Reading()) -> list[Example]:
    """Raises ValueError where the files are not what the pool was prepared from."""
    found = find_samples(pool, {sample.id for sample in chosen}, reading)
    examples = []
    for sample in chosen:
        with naming(found[sample.id].place):
            example = encode(found[sample.id].sample, encoder)
        length = len(example.tokens) if example else 0
        if length != sample.tokens:
            raise ValueError(f"{found[sample.id].place}: sample '{sample.id}' has {length} tokens with labels, the result says "
                             f"{sample.tokens}; expected the model family and --max-length of the pool")  # fmt: skip
        examples.append(example._replace(weight=sample.weight))
    return examples


def evaluation_examples(path: Path, first: int | None, encoder: ChatEncoder, reading: Reading = Reading()) -> list[Example]:
    examples = []
    for row in read_rows(path, reading=reading):
        with naming(row.place):
            example = encode(parse_sample(row), encoder)
        if example:
            examples.append(example)
    if not examples:
        raise ValueError(f"{path}: has no samples with labels; expected samples to evaluate on")
    return examples[:first]
