"""Published ways to order a pool by its likeness to target samples, without gradients: what a selection is compared with."""

from pathlib import Path

import bm25s
import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel

from idistill.samples import Sample, read_samples
from idistill.token_file import TokenFile
from idistill.training import Example, collate


def interleaved(sizes: list[int]) -> list[int]:
    """Places of targets that lie task after task, of so many each: the first of every task, then the second of every task."""
    first = np.cumsum([0, *sizes])
    return [int(first[task]) + number for number in range(max(sizes)) for task in range(len(sizes)) if number < sizes[task]]


def in_turns(likeness: np.ndarray, sizes: list[int]) -> list[int]:
    """Rows of (pool x targets), best first: tasks in turn, and of each its targets in turn, take the row that is most like the
    target of those left. Ties go to the lower row. `sizes`: targets of every task.
    """
    favourites = np.argsort(-likeness, axis=0, kind="stable")
    count, targets = likeness.shape
    turns = interleaved(sizes)
    taken, order, next_of = np.zeros(count, bool), [], [0] * targets
    while len(order) < count:
        for target in turns:
            while next_of[target] < count and taken[favourites[next_of[target], target]]:
                next_of[target] += 1
            if next_of[target] < count:
                taken[row := favourites[next_of[target], target]] = True
                order.append(int(row))
    return order


@torch.no_grad()
def pooled_states(model: torch.nn.Module, examples: list[Example], at_once: int) -> np.ndarray:
    """(n x hidden) of unit length: mean of the last hidden states, the token at position i weighted by i (from 1)."""
    rows = np.empty((len(examples), model.config.hidden_size), np.float32)
    by_length = sorted(range(len(examples)), key=lambda row: len(examples[row].tokens))
    for start in tqdm(range(0, len(by_length), at_once), desc="RDS+", unit=" batches", disable=None):
        own = by_length[start : start + at_once]
        batch = {name: tensor.to(model.device) for name, tensor in collate([examples[row] for row in own]).items()}
        del batch["labels"]
        states = model(**batch).last_hidden_state.float()
        weights = batch["attention_mask"] * torch.arange(1, states.shape[1] + 1, device=model.device)
        rows[own] = torch.nn.functional.normalize((weights[:, :, None] * states).sum(1), dim=1).cpu().numpy()
    return rows


def rds_plus(model: Path, pool: Path, targets: list[Path], at_once: int = 8) -> list[str]:
    """Ids of a token file's samples, by cosine of position-weighted mean hidden states (RDS+, arXiv 2503.01807)."""
    encoder = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    if torch.cuda.is_available():
        encoder.cuda()
    read = []
    for path in (pool, *targets):
        with TokenFile(path) as file:
            read.append((file.ids, [Example(tokens, mask) for *_, tokens, mask in file]))
    ids, examples = read[0]
    own = pooled_states(encoder, examples, at_once)
    wanted = pooled_states(encoder, [example for _, found in read[1:] for example in found], at_once)
    return [ids[row] for row in in_turns(own @ wanted.T, [len(found) for _, found in read[1:]])]


def likeness_of_words(texts: list[str], queries: list[str]) -> np.ndarray:
    """(texts x queries) BM25."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    return np.stack([index.get_scores(words) for words in bm25s.tokenize(queries, return_ids=False, show_progress=False)], 1)


def said_in(samples: list[Sample]) -> list[str]:
    return [" ".join([*(message["content"] for message in sample.messages), sample.text or ""]).rstrip() for sample in samples]


def bm25(pool: Path, targets: list[Path]) -> list[str]:
    """Ids of the samples of a file, by BM25 of all that is said in them with all that is said in a target sample."""
    samples = list(read_samples(pool))
    wanted = [list(read_samples(path)) for path in targets]
    likeness = likeness_of_words(said_in(samples), said_in([sample for own in wanted for sample in own]))
    return [samples[row].id for row in in_turns(likeness, [len(own) for own in wanted])]
