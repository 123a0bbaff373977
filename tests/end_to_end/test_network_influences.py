"""--propagation network of the influence functions of NN-CIFT: labels are exact, predictions those of numpy from the parameters
that the state kept, and what is said of parameters and cost follows from the shapes."""

import math
import os
import re
import signal
from typing import NamedTuple

import h5py
import less_truth
import numpy as np
import pytest
import truth
from idistill.output_file import OutputFile
from interrupting import at_unit, state_of
from made_files import write_embedding, write_ratings
from program import Job, assert_same, attributes, run, text
from safetensors import safe_open
from test_selectit import made_up
from tiny import Inputs, load_model

WIDTH, HIDDEN, LABELLED = 12, 20, 40
KINDS = ("selectit", "less", "delift", "delift of the pool")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"), 110, 10, joints=True)


@pytest.fixture(scope="module")
def files(inputs, tmp_path_factory):
    """Embeddings by id, their file, ratings, and two checkpoints as options."""
    directory = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(17)
    samples = [*inputs.pool, *(s for own in inputs.targets.values() for s in own)]
    centres = {source: random.normal(size=WIDTH) for source in sorted({s.source for s in samples})}
    rows = {s.id: (centres[s.source] + random.normal(size=WIDTH)).astype(np.float32) for s in samples}
    write_embedding(directory / "sentences.h5", rows, rows.values())
    write_ratings(directory / "ratings.h5", made_up(inputs.pool, 7))
    for name, seed in (("first", 0), ("second", 2)):
        less_truth.save_checkpoint(directory / name, less_truth.moved_on(load_model(inputs.model), seed), inputs.pool[:60], seed)
    return directory, rows


def arguments(inputs, files, kind: str, out, *extra) -> list:
    directory, _ = files
    targets = ["--target", *(f"{name}={path}" for name, path in inputs.target_files.items())]
    checkpoints = [f"{directory / 'first'}:2e-5", f"{directory / 'second'}:1e-5"]
    own = {"selectit": ["--influence", "selectit", "--ratings", directory / "ratings.h5"],
           # Of nine target samples and more a tenth is held out, and no dataset says which: without a scale it is no matter.
           "less": ["--influence", "less", *targets, "--checkpoint", *checkpoints, "--sketch", "none"],
           "delift": ["--influence", "delift", *targets, "--columns", "tasks"],
           "delift of the pool": ["--influence", "delift"]}[kind]  # fmt: skip
    return ["--model", inputs.model, "--pool", inputs.pool_file, "--out", out, *own, "--selection", "top-k", "--select", 10, *extra]


def network(files, kind: str) -> list:
    scale = ["--network-standardise", "off"] if kind == "less" else []
    return ["--propagation", "network", "--embedding", files[0] / "sentences.h5", "--landmarks", LABELLED,
            "--network-width", HIDDEN, *scale, "--unit-flops", 1]  # fmt: skip


class Learnt(NamedTuple):
    """Of a run that was killed among the pool's predictions and then continued by three ranks."""

    out: object
    said: str
    parameters: np.ndarray  # (epochs x parameters)
    held_error: np.ndarray  # (epochs)


@pytest.fixture(scope="module")
def learnt(inputs, files, tmp_path_factory):
    """By kind, each when it is first asked for."""
    directory = tmp_path_factory.mktemp("learnt")
    known = {}

    def get(kind: str) -> Learnt:
        if kind not in known:
            out = directory / f"{kind}.h5"
            given = arguments(inputs, files, kind, out, *network(files, kind))
            with Job(2, *given) as job:
                os.kill(at_unit(job, out, "pool", 1)[1], signal.SIGKILL)
                job.wait(30)
            with h5py.File(state_of(out)) as file:
                stages = {"network", "sample_network"} & set(file)
                assert stages == {"sample_network" if kind == "selectit" else "network"}
                stage = file[stages.pop()]
                kept = stage["parameters"][:], stage["error"][:, 1]
            known[kind] = Learnt(out, run(3, *given), *kept)
        return known[kind]

    return get


def read(path, *names):
    with OutputFile(path) as file:
        return [file[name] for name in names]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_exact_influence(inputs, files, learnt, tmp_path, kind):
    """Of the labelled samples, whose influence is no prediction."""
    run(2, *arguments(inputs, files, kind, tmp_path / "exact.h5", "--propagation", "none", *inputs.unit))
    names = "influence", "exact", "landmark/index", "landmark/influence", "column/name", "quarantine/index"
    influence, exact, landmarks, labels, columns, quarantined = read(learnt(kind).out, *names)
    expected, every = read(tmp_path / "exact.h5", "influence", "column/name")
    expected = expected[:, [text(every).index(name) for name in text(columns)]]
    np.testing.assert_allclose(labels, expected[landmarks], atol=1e-4 * np.nanstd(expected))
    good = np.isfinite(labels).all(1)
    assert good.sum() > LABELLED - 4 and set(np.flatnonzero(exact)) == set(landmarks[good])
    np.testing.assert_array_equal(influence[landmarks[good]], labels[good])
    assert set(np.flatnonzero(~np.isfinite(influence).all(1))) == set(quarantined)
    assert np.isfinite(influence).all(1).sum() > 80


def scores(parameters: np.ndarray, inputs_of: np.ndarray) -> np.ndarray:
    """Of one hidden layer, fp64."""
    count = inputs_of.shape[-1]
    weight, bias, output, last = np.split(np.float64(parameters), [HIDDEN * count, HIDDEN * (count + 1), HIDDEN * (count + 2)])
    return np.maximum(inputs_of @ weight.reshape(HIDDEN, count).T + bias, 0) @ output + last[0]


def embeddings_of_columns(inputs, rows, columns: list[str], kind: str) -> np.ndarray:
    if kind != "delift":
        return np.array([rows[name] for name in columns], float)
    usable = {name: [s for s in own if truth.is_usable(s)] for name, own in inputs.targets.items()}
    return np.array([np.mean([rows[s.id] for s in usable[name]], 0, dtype=float) for name in columns])


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_parameters(inputs, files, learnt, kind):
    """With the scale of what was learnt from: embeddings over their root mean square length, labels to mean 0 and deviation 1."""
    own, rows = learnt(kind), files[1]
    names = "influence", "exact", "landmark/index", "landmark/influence", "landmark/loo", "column/name"
    influence, exact, landmarks, labels, left_out, columns = read(own.out, *names)
    own_rows = np.array([rows[s.id] for s in inputs.pool], float)
    held = np.isfinite(left_out).all(1)
    from_these = np.isfinite(labels).all(1) & ~held
    first, second = own_rows[landmarks[from_these]], None
    wanted, counted = np.float64(labels[from_these]), np.ones((from_these.sum(), labels.shape[1]), bool)
    pairs = own_rows[:, None]
    if kind != "selectit":
        second = embeddings_of_columns(inputs, rows, text(columns), kind)
        pairs = np.concatenate([np.repeat(pairs, len(second), 1), np.repeat(second[None], len(own_rows), 0)], 2)
        if kind == "delift of the pool":  # columns are the landmarks that are usable
            seen = np.isin(text(columns), [inputs.pool[i].id for i in landmarks[from_these]])
            second, wanted, counted = second[seen], wanted[:, seen], ~np.eye(seen.sum(), dtype=bool)
    length, gain, offset = 1.0, 1.0, 0.0
    if kind != "less":
        learnt_from = first if second is None else np.concatenate([first, second])
        length = np.sqrt((learnt_from**2).sum(1).mean())
        gain, offset = wanted[counted].std(), wanted[counted].mean()
    epoch = attributes(own.out)["network_epoch"]
    found = gain * scores(own.parameters[epoch - 1], pairs / length) + offset
    predicted = np.isfinite(influence).all(1) & (exact == 0)
    assert predicted.sum() > 50 and found[predicted].std() > 0
    np.testing.assert_allclose(influence[predicted], found[predicted], atol=1e-5 * np.abs(found[predicted]).max())
    np.testing.assert_allclose(left_out[held], found[landmarks[held]], atol=1e-5 * np.abs(found).max())
    assert held.sum() == max(2 if kind == "delift of the pool" else 1, np.isfinite(labels).all(1).sum() // 10)


@pytest.mark.parametrize("kind", KINDS)
def test_one_network_of_what_there_is(learnt, kind):
    said, found = learnt(kind).said, attributes(learnt(kind).out)
    assert found["network_parameters"] == parameters_of(kind)
    assert ("network of samples alone" in said) == (kind == "selectit")
    assert ("network of pairs" in said) == (kind != "selectit")
    if kind == "selectit":
        labels, = read(learnt(kind).out, "landmark/influence")
        assert labels.shape[1] == 1 and "held-out samples, none of which the network has seen" in said
        assert found["network_pairs"] + found["network_held_out_pairs"] == np.isfinite(labels).sum()


def parameters_of(kind: str) -> int:
    return (WIDTH if kind == "selectit" else 2 * WIDTH) * HIDDEN + HIDDEN + HIDDEN + 1


FLOPS = r"planned FLOPs: labels (\S+), learning (\S+), prediction (\S+): (\S+) % of the (\S+) of labelling every sample"


def columns_of(inputs, kind: str) -> int:
    """As planned."""
    labelled_targets = sum(s.mask[1:].any() for own in inputs.targets.values() for s in own)
    return {"selectit": 1, "less": labelled_targets, "delift": len(inputs.targets)}.get(kind, LABELLED)


def three_digits(value: float):
    return pytest.approx(value, rel=5.1e-3)


def check_cost(inputs, said: str, out, kind: str) -> float:
    """What is said of parameters and cost, but for the cost of labels, which is returned."""
    labels, learning, prediction, share, every = map(float, re.search(FLOPS, said).groups())
    with safe_open(inputs.model / "model.safetensors", "numpy") as file:
        of_model = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    of_network, of = re.search(r"together (\S+) % of the (\S+) parameters of the language model", said).groups()
    assert float(of) == three_digits(of_model) and float(of_network) == three_digits(100 * parameters_of(kind) / of_model)

    influence, errors, reasons = read(out, "influence", "network/epoch/error", "quarantine/reason")
    eligible = len(influence) - sum(reason != "not finite" for reason in text(reasons))
    columns = columns_of(inputs, kind)
    assert influence.shape[1] in (columns, columns - 1)  # but for one that turns out not to be finite
    assert every == three_digits(labels * eligible / LABELLED)
    # Forward, and the gradients of weights; of a hidden layer's values behind the first.
    inputs_of = WIDTH if kind == "selectit" else 2 * WIDTH
    of_pair = 2 * 2 * inputs_of * HIDDEN + 3 * 2 * HIDDEN
    pairs = int(attributes(out)["network_pairs"])
    passes = math.ceil(500 / math.ceil(pairs / 64))
    assert passes > 1 and attributes(out)["network_passes"] == passes and f"of {passes} passes" in said
    assert learning == three_digits(pairs * passes * len(errors) * of_pair)
    # The half of a sample; of every pair the sums, and their products with the output's weights.
    of_sample = 2 * WIDTH * HIDDEN + (2 * HIDDEN if kind == "selectit" else columns * (2 * HIDDEN + 2 * HIDDEN))
    assert prediction == three_digits((eligible - LABELLED) * of_sample)
    assert share == pytest.approx(100 * (labels + learning + prediction) / every, rel=0.01, abs=0.06)
    return labels


@pytest.mark.parametrize("kind", KINDS)
def test_cost_beside_labelling_every_sample(inputs, learnt, kind):
    check_cost(inputs, learnt(kind).said, learnt(kind).out, kind)


def test_cost_of_labels(inputs, files, tmp_path):
    """Cosines of sentence embeddings: a product of numbers each."""
    out, file = tmp_path / "out.h5", files[0] / "sentences.h5"
    given = arguments(inputs, files, "delift of the pool", out, "--sentence-embedding", file, *network(files, "delift-se"))
    given[given.index("delift")] = "delift-se"
    labels = check_cost(inputs, run(2, *given), out, "delift-se")
    assert labels == three_digits(LABELLED * LABELLED * 2 * WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_by_one_rank_at_once(inputs, files, learnt, tmp_path, kind):
    out = tmp_path / "out.h5"
    run(1, *arguments(inputs, files, kind, out, *network(files, kind)))
    assert_same(out, learnt(kind).out)
