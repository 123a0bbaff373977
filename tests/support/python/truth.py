"""What a result must hold, from transformers, autograd and numpy alone."""

import numpy as np
import torch
from tiny import POISON, Sample

torch.set_num_threads(1)  # tiny products: threads would only wait for each other


def is_usable(sample: Sample) -> bool:
    return bool(sample.mask[1:].any()) and POISON not in sample.tokens


def gradients(model: torch.nn.Module, samples: list[Sample]) -> np.ndarray:
    """(n x d) of the mean loss over a sample's label tokens, all down_proj layers; NaN for samples that have none."""
    weights = [layer.mlp.down_proj.weight for layer in model.model.layers]
    rows = np.full((len(samples), sum(w.numel() for w in weights)), np.nan)
    for row, sample in zip(rows, samples):
        if not is_usable(sample):
            continue
        tokens = torch.tensor(sample.tokens, dtype=torch.long)
        log_probabilities = model(tokens[None]).logits[0].log_softmax(-1)
        labelled = [p for p in range(1, len(tokens)) if sample.mask[p]]
        loss = -torch.stack([log_probabilities[p - 1, tokens[p]] for p in labelled]).mean()
        row[:] = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]).double().numpy()
    return rows


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def without(rows: np.ndarray, common: np.ndarray) -> np.ndarray:
    """The rows without their parts along `common`."""
    return rows - np.outer(rows @ common / (common @ common), common)


def hidden_embeddings(model: torch.nn.Module, samples: list[Sample], blocks: int) -> np.ndarray:
    """(n x 2h): mean and last state after `blocks` blocks and the final norm."""
    every = model.model.layers
    model.model.layers = every[:blocks]
    try:
        with torch.no_grad():
            states = [model.model(torch.tensor(s.tokens, dtype=torch.long)[None]).last_hidden_state[0] for s in samples]
    finally:
        model.model.layers = every
    return torch.stack([torch.cat([s.mean(0), s[-1]]) for s in states]).double().numpy()


def rbf(points: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """(n x L), and its width: the median distance between landmarks."""
    distances = np.linalg.norm(points[:, None] - points[landmarks][None], axis=2)
    width = float(np.median(distances[landmarks][np.triu_indices(len(landmarks), 1)]))
    return np.exp(-(distances**2) / (2 * width**2)), width


def ridge_kernel(embedding: np.ndarray, samples: list[Sample], landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """(n x L), the mean of the kernels of embedding, log lengths and source; and the width of the first."""
    lengths = np.log([[len(s.tokens), s.mask[1:].sum()] for s in samples])
    source = np.array([s.source for s in samples])
    of_embedding, width = rbf(embedding, landmarks)
    return (of_embedding + rbf(lengths, landmarks)[0] + (source[:, None] == source[landmarks])) / 3, width


def ridge(kernel: np.ndarray, labels: np.ndarray, damping: float, intercept: bool):
    """Coefficients (L x C) and intercept (C) of the fit, by one system of equations with the intercept as an unknown."""
    count = len(kernel)
    system = np.block([[kernel + damping * np.eye(count), np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
    if not intercept:
        return np.linalg.solve(system[:-1, :-1], labels), np.zeros(labels.shape[1])
    solution = np.linalg.solve(system, np.vstack([labels, np.zeros((1, labels.shape[1]))]))
    return solution[:-1], solution[-1]


def left_out_pairs(kernel: np.ndarray, labels: np.ndarray, source: np.ndarray, damping: float, intercept: bool) -> np.ndarray:
    """(C) R2 of differences between two landmarks of a source, by fits without both; a pair counts by one over its source's
    landmarks."""
    error, total = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for i, j in ((i, j) for i in range(len(labels)) for j in range(i) if source[i] == source[j]):
        rest = np.delete(np.arange(len(labels)), [i, j])
        coefficients, _ = ridge(kernel[np.ix_(rest, rest)], labels[rest], damping, intercept)
        difference, predicted = labels[i] - labels[j], (kernel[i, rest] - kernel[j, rest]) @ coefficients
        error += (difference - predicted) ** 2 / (source == source[i]).sum()
        total += difference**2 / (source == source[i]).sum()
    return 1 - error / total


def task_means(values: np.ndarray, column_task: np.ndarray) -> np.ndarray:
    return np.stack([values[:, column_task == task].astype(float).mean(1) for task in range(column_task.max() + 1)], 1)


def r_squared(truth: np.ndarray, prediction: np.ndarray) -> float:
    return 1 - ((truth - prediction) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()


def interleaved(column_task: np.ndarray) -> list[int]:
    """First column of every task, then the second, ..."""
    seen: dict[int, int] = {}
    turns = []
    for column, task in enumerate(column_task):
        turns.append((seen.get(task, 0), task, column))
        seen[task] = turns[-1][0] + 1
    return [column for *_, column in sorted(turns)]


def choose(lists: list[tuple[int, np.ndarray]], samples: list[Sample], *, count=None, tokens=None, caps=None):
    """(row, column) in order: the lists, each (column, value of every row), take turns; ties go to the lower row."""
    left = dict(caps or {})
    chosen, used = [], set()
    while len(chosen) != count:
        column, values = lists[len(chosen) % len(lists)]
        open_rows = [r for r in np.flatnonzero(np.isfinite(values)) if r not in used and left.get(samples[r].source, 1) > 0]
        if not open_rows:
            break
        row = min(open_rows, key=lambda r: (-values[r], r))
        if tokens is not None:
            if len(samples[row].tokens) > tokens:
                break
            tokens -= len(samples[row].tokens)
        left[samples[row].source] = left.get(samples[row].source, len(samples)) - 1
        used.add(row)
        chosen.append((int(row), column))
    return chosen
