#!/usr/bin/env python3
"""How well embeddings predict exact influence: leave-one-out on landmarks, and samples that were not landmarks.

    mpirun -n 2 idistill_mpi --propagation none ... --pool pool.h5 --out exact.h5
    mpirun -n 2 idistill_mpi embed --model MODEL --pool pool.h5 --embedding jvp --out jvp.h5
    jobs/embedding_check.py --exact exact.h5 --pool pool.h5 --landmarks 1024 --held-out 512 jvp.h5 jvp.h5+other.h5

Kernel ridge as in idistill_mpi, written a second time in NumPy: the mean of the kernels of each embedding (RBF,
median bandwidth), of the log lengths and of the source; damping and intercept by leave-one-out. Landmarks and held-out
samples are drawn at random. The first row is the source alone, the second source and lengths. Figures are means over tasks:

  within     R2 of differences between two samples of a source: which sample of a source is better; leave-one-out leaves
             out both of them
  R2         1 - squared error over variance
  Spearman   correlation of ranks
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from scipy.stats import spearmanr

from arguments import positive
from result_file import opened
from token_file import TokenFile

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
    with opened(exact) as file, TokenFile(pool) as tokens:
        if file["id"].asstr()[:].tolist() != tokens.ids:
            raise ValueError(f"{exact}: is not of the samples of {pool}; expected the result of a run over this pool")
        if json.loads(file.attrs["settings"])["propagation"] != "none":
            raise ValueError(f"{exact}: its run propagated, so what is exact is no random part; expected --propagation none")
        rows = np.setdiff1d(np.arange(len(tokens)), file["quarantine/index"][:])
        rows = np.random.default_rng(seed).permutation(rows)
        lengths = np.array([(len(mask), mask[1:].sum()) for *_, mask in tokens])[rows]  # nothing predicts the first token
        ids = [tokens.ids[row] for row in rows]
        return Samples(ids, file["score"][:][rows].astype(float), file["source/index"][:][rows], np.log(lengths))


def read_embedding(path: Path, ids: list[str]) -> np.ndarray:
    """(n x e) Raises ValueError and OSError."""
    with h5py.File(path) as file:
        if file.attrs.get("format") not in ("idistill-embedding", b"idistill-embedding"):
            raise ValueError(f"{path}: not an embedding file; expected one from idistill_mpi embed")
        place = {own: row for row, own in enumerate(file["id"].asstr()[:])}
        missing = [own for own in ids if own not in place]
        if missing:
            raise ValueError(f"{path}: has no row for {len(missing)} samples, '{missing[0]}' among them")
        rows = file["embedding"][:][[place[own] for own in ids]].astype(float)
    if not np.isfinite(rows).all():
        raise ValueError(f"{path}: {(~np.isfinite(rows)).any(1).sum()} rows are not finite; expected one for every sample")
    return rows


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


def check(options: argparse.Namespace):
    """Raises ValueError and OSError."""
    samples = read_samples(options.exact, options.pool, options.seed)
    landmarks, drawn = options.landmarks, options.landmarks + options.held_out
    if len(samples.ids) < drawn:
        raise ValueError(f"{options.exact}: {len(samples.ids)} samples have an exact influence; expected {drawn}, --landmarks and "
                         "--held-out together")  # fmt: skip
    samples = Samples(samples.ids[:drawn], *(values[:drawn] for values in samples[1:]))
    truth, source = samples.influence, samples.source
    same_source = (source[:, None] == source[None, :landmarks]).astype(float)
    metadata = [same_source, rbf(samples.log_lengths, landmarks)]
    compared = {"source alone": [same_source], "source, lengths": metadata}
    for names in options.embeddings:
        kernels = [rbf(read_embedding(Path(name), samples.ids), landmarks) for name in names.split("+")]
        compared[names] = [*kernels, *metadata]
    width = max(map(len, compared))
    print(f"{landmarks} landmarks, {options.held_out} samples held out, {truth.shape[1]} tasks")
    print(f"{'':{width}}  {'leave-one-out':>24}  {'held out':>24}")
    print(f"{'embedding':{width}}" + f"  {'within':>7} {'R2':>7} {'Spearman':>8}" * 2)
    for name, kernels in compared.items():
        own = predict(sum(kernels) / len(kernels), truth[:landmarks], source[:landmarks])
        within = r_squared(*(centred(values, source[landmarks:]) for values in (truth[landmarks:], own.held_out)))
        print(f"{name:{width}}{figures(truth[:landmarks], own.leave_one_out, own.within)}"
              f"{figures(truth[landmarks:], own.held_out, within)}", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", type=Path, required=True, help="result with --propagation none")
    parser.add_argument("--pool", type=Path, required=True, help="its token file")
    parser.add_argument("--landmarks", type=positive, default=1024, help="(%(default)s)")
    parser.add_argument("--held-out", type=positive, default=512, help="samples to predict beside them (%(default)s)")
    parser.add_argument("--seed", type=int, default=43, help="of what is drawn (%(default)s)")
    parser.add_argument("embeddings", nargs="+", metavar="FILE[+FILE]", help="from idistill_mpi embed; joined: each with a kernel")
    try:
        check(parser.parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"embedding_check.py: {error}")


if __name__ == "__main__":
    main()
