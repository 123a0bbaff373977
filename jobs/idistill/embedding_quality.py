"""How well embeddings predict exact influence: kernel ridge as in idistill_mpi, written a second time in NumPy."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from idistill.output_file import EmbeddingFile
from idistill.result import Result
from idistill.token_file import TokenFile

ALONE = "alone"  # behind the name of a row without kernels of source and lengths
DAMPINGS = 10.0 ** np.arange(-4, 2.25, 0.25)


class Samples(NamedTuple):
    """Those with an exact influence, in the order in which they are drawn."""

    ids: list[str]
    influence: np.ndarray  # (n x tasks) exact
    source: np.ndarray  # (n)
    log_lengths: np.ndarray  # (n x 2) tokens, label tokens


class Prediction(NamedTuple):
    leave_one_out: np.ndarray  # (landmarks x tasks)
    within: float  # R2 of differences within a source, both landmarks left out
    held_out: np.ndarray  # (held out x tasks)


def read_samples(exact: Path, pool: Path, seed: int) -> Samples:
    """Raises ValueError and OSError."""
    with Result(exact) as result, TokenFile(pool) as tokens:
        if result.texts("id") != tokens.ids:
            raise ValueError(f"{exact}: is not of the samples of {pool}; expected the result of a run over this pool")
        if result.setting("propagation") != "none":
            raise ValueError(f"{exact}: its run propagated, so what is exact is no random part; expected --propagation none")
        rows = np.setdiff1d(np.arange(len(tokens)), result["quarantine/index"])
        rows = np.random.default_rng(seed).permutation(rows)
        lengths = np.array([(len(mask), mask[1:].sum()) for *_, mask in tokens])[rows]  # nothing predicts the first token
        ids = [tokens.ids[row] for row in rows]
        return Samples(ids, result["score"][rows].astype(float), result["source/index"][rows], np.log(lengths))


def read_embedding(path: Path, ids: list[str]) -> np.ndarray:
    """(n x e) Raises ValueError and OSError."""
    with EmbeddingFile(path) as file:
        return file.of(ids)


def rbf(rows: np.ndarray, landmarks: int) -> np.ndarray:
    """(n x L) with the median distance of landmarks as bandwidth; of those that differ where that is 0."""
    norms = (rows**2).sum(1)
    squared = np.maximum(norms[:, None] + norms[None, :landmarks] - 2 * rows @ rows[:landmarks].T, 0)
    distances = np.sqrt(squared[:landmarks][np.triu_indices(landmarks, 1)])
    bandwidth = np.median(distances)
    if bandwidth <= 1e-6:
        bandwidth = np.median(distances[distances > 1e-6]) if (distances > 1e-6).any() else 1.0
    return np.exp(-squared / (2 * bandwidth**2))


def r_squared(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean over tasks; (n x tasks) each."""
    return float(np.mean(1 - ((truth - prediction) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)))


def centred(values: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Within their source; samples alone in theirs become 0."""
    own = np.unique(source, return_inverse=True)[1]
    sums = np.zeros((own.max() + 1, values.shape[1]))
    np.add.at(sums, own, values)
    return values - (sums / np.bincount(own)[:, None])[own]


def left_out_pairs(inverse: np.ndarray, influence: np.ndarray, source: np.ndarray) -> float:
    """R2 of differences within a source. The residuals of landmarks P left out together are inverse[P, P]^-1 (inverse y)[P]."""
    coefficients, error, total = inverse @ influence, 0.0, 0.0
    for own in np.unique(source):
        members = np.flatnonzero(source == own)
        i, j = members[np.array(np.triu_indices(len(members), 1))]
        blocks = np.stack([inverse[i, i], inverse[i, j], inverse[i, j], inverse[j, j]], 1).reshape(-1, 2, 2)
        residuals = np.linalg.solve(blocks, np.stack([coefficients[i], coefficients[j]], 1))  # (pairs x 2 x tasks)
        error += ((residuals[:, 0] - residuals[:, 1]) ** 2).sum(0) / len(members)
        total += ((influence[i] - influence[j]) ** 2).sum(0) / len(members)
    return float(np.mean(1 - error / total))


def predict(kernel: np.ndarray, influence: np.ndarray, source: np.ndarray) -> Prediction:
    """Of the damping and intercept with the lowest leave-one-out error; `kernel` (n x L), of landmarks: `influence`
    (L x tasks) and `source` (L)."""
    count = len(influence)
    values, vectors = np.linalg.eigh(kernel[:count])
    best = None
    for damping in DAMPINGS:
        inverse = (vectors / (np.maximum(values, 0) + damping)) @ vectors.T
        ones = inverse.sum(1)
        for intercept in (False, True):
            own = inverse - np.outer(ones, ones) / ones.sum() if intercept else inverse
            coefficients = own @ influence
            offset = ones @ influence / ones.sum() if intercept else 0.0
            left_out = influence - coefficients / own.diagonal()[:, None]
            quality = r_squared(influence, left_out)
            if best is None or quality > best[0]:
                best = quality, own, left_out, kernel[count:] @ coefficients + offset
    _, inverse, left_out, held_out = best
    return Prediction(left_out, left_out_pairs(inverse, influence, source), held_out)


def figures(truth: np.ndarray, prediction: np.ndarray, within: float) -> str:
    rank = np.mean([spearmanr(truth[:, task], prediction[:, task])[0] for task in range(truth.shape[1])])
    return f"  {within:7.3f} {r_squared(truth, prediction):7.3f} {rank:8.3f}"


def drawn_samples(exact: Path, pool: Path, landmarks: int, held_out: int, seed: int) -> Samples:
    """Landmarks, then those held out. Raises ValueError and OSError."""
    samples = read_samples(exact, pool, seed)
    drawn = landmarks + held_out
    if len(samples.ids) < drawn:
        raise ValueError(f"{exact}: {len(samples.ids)} samples have an exact influence; expected {drawn}, --landmarks and "
                         "--held-out together")  # fmt: skip
    return Samples(samples.ids[:drawn], *(values[:drawn] for values in samples[1:]))


def compared_kernels(
    samples: Samples, landmarks: int, embeddings: dict[str, list[Path]], alone: bool
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(n x L) kernels of every row of the table, whose mean predicts. Raises ValueError and OSError."""
    same_source = (samples.source[:, None] == samples.source[None, :landmarks]).astype(float)
    metadata = [same_source, rbf(samples.log_lengths, landmarks)]
    yield "source alone", [same_source]
    yield "source, lengths", metadata
    for name, files in embeddings.items():
        kernels = [rbf(read_embedding(file, samples.ids), landmarks) for file in files]
        if alone:
            yield f"{name} {ALONE}", kernels
        yield name, [*kernels, *metadata]


def table(samples: Samples, landmarks: int, embeddings: dict[str, list[Path]], alone: bool) -> Iterator[tuple[str, str]]:
    """Names of the rows and their lines, each as soon as it is computed; titles first. `embeddings`: files by the name of their row.

    Raises ValueError and OSError.
    """
    truth, source = samples.influence, samples.source
    width = max(len("source, lengths"), *(len(f"{name} {ALONE}") for name in embeddings))
    yield "", f"{landmarks} landmarks, {len(truth) - landmarks} samples held out, {truth.shape[1]} tasks"
    yield "", f"{'':{width}}  {'leave-one-out':>24}  {'held out':>24}"
    yield "embedding", f"{'embedding':{width}}" + f"  {'within':>7} {'R2':>7} {'Spearman':>8}" * 2
    for name, kernels in compared_kernels(samples, landmarks, embeddings, alone):
        own = predict(sum(kernels) / len(kernels), truth[:landmarks], source[:landmarks])
        within = r_squared(*(centred(values, source[landmarks:]) for values in (truth[landmarks:], own.held_out)))
        yield name, (f"{name:{width}}{figures(truth[:landmarks], own.leave_one_out, own.within)}"
                     f"{figures(truth[landmarks:], own.held_out, within)}")  # fmt: skip


def check(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table, each as soon as it is computed. Raises ValueError and OSError."""
    samples = drawn_samples(options.exact, options.pool, options.landmarks, options.held_out, options.seed)
    embeddings = {names: [Path(name) for name in names.split("+")] for names in options.embeddings}
    for _, line in table(samples, options.landmarks, embeddings, options.alone):
        yield line
