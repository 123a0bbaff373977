import json

import commands
import embedding_check
import h5py
import numpy as np
import pytest
from idistill import embedding_quality
from idistill.token_file import TokenFileWriter
from result_files import fixed_length, write_result

run, refused = commands.of(embedding_check)

SAMPLES, SOURCES = 90, 5


@pytest.fixture
def files(tmp_path):
    """Influence that is a smooth function of the rows of good.h5; those of noise.h5 say nothing."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(SAMPLES, 2))
    source = random.integers(0, SOURCES, SAMPLES)
    scores = np.stack([np.sin(rows[:, 0]) + rows[:, 1] + source, np.cos(rows[:, 1]) - 0.3 * source], 1)
    ids = [f"s{i}" for i in range(SAMPLES)]
    write_result(
        tmp_path / "exact.h5", ids=ids, sources=[f"from {own}" for own in source], scores=scores, tasks=["t", "u"], columns=["t-0", "u-0"],
        column_task=[0, 1], selected=[0], selected_columns=[0], weights=[1], quarantined=[4],
    )  # fmt: skip
    lengths = random.integers(3, 30, SAMPLES)
    with TokenFileWriter(tmp_path / "pool.h5", "no tokenizer", 30) as file:
        for sample_id, length in zip(ids, lengths):
            file.append(sample_id, "any", np.zeros(length, np.int32), np.ones(length, np.uint8))
    for name, embedding in (("good", rows), ("noise", random.normal(size=rows.shape))):
        order = random.permutation(SAMPLES)
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["id"] = fixed_length([ids[row] for row in order])
            file.attrs.update({"format": "idistill-embedding", "version": 1})
            file["embedding"] = embedding[order].astype(np.float32)
    return tmp_path


def arguments(files, *embeddings, landmarks=60, held_out=29):
    return ["--exact", files / "exact.h5", "--pool", files / "pool.h5", "--landmarks", landmarks, "--held-out", held_out, *embeddings]


def test_the_embedding_that_knows_predicts(files, monkeypatch, capsys):
    good, noise = files / "good.h5", files / "noise.h5"
    run(monkeypatch, *arguments(files, good, noise, f"{good}+{noise}"))
    title, _, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "60 landmarks, 29 samples held out, 2 tasks"
    found = {" ".join(words[:-6]).replace(f"{files}/", ""): list(map(float, words[-6:])) for words in map(str.split, rows)}
    assert list(found) == ["source alone", "source, lengths", "good.h5", "noise.h5", "good.h5+noise.h5"]
    found = {name.replace(".h5", ""): own for name, own in found.items()}
    for within in (0, 3):  # leave-one-out, held out
        assert found["good"][within] > 0.9 and found["noise"][within] < 0.2 and abs(found["source alone"][within]) < 1e-3
        assert found["noise"][within] < found["good+noise"][within] < found["good"][within]
    assert found["source alone"][4] > 0.2  # what lies between sources


def test_leaving_out_is_leaving_out():
    """Every landmark's prediction is that of a fit without it, by the bordered system of equations; so is that of a pair."""
    random = np.random.default_rng(5)
    points, influence = random.normal(size=(14, 3)), random.normal(size=(12, 2)) + 4
    kernel = embedding_quality.rbf(points, 12)
    assert np.median(np.linalg.norm(points[:12, None] - points[None, :12], axis=2)[np.triu_indices(12, 1)]) == pytest.approx(
        np.sqrt(-1 / (2 * np.log(kernel[0, 1]))) * np.linalg.norm(points[0] - points[1])
    )
    source = np.array([0, 1, 2] * 4)
    own = embedding_quality.predict(kernel, influence, source)

    def fitted(rows, damping, at):
        count = len(rows)
        system = np.block([[kernel[rows][:, rows] + damping * np.eye(count), np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
        solution = np.linalg.solve(system, np.vstack([influence[rows], np.zeros((1, 2))]))
        return kernel[at][rows] @ solution[:-1] + solution[-1]

    tried = []
    for damping in embedding_quality.DAMPINGS:
        left_out = np.stack([fitted(np.delete(np.arange(12), i), damping, i) for i in range(12)])
        tried.append((embedding_quality.r_squared(influence, left_out), damping, left_out))
    _, damping, left_out = max(tried, key=lambda trial: trial[0])
    assert np.allclose(own.leave_one_out, left_out)
    assert np.allclose(own.held_out, [fitted(np.arange(12), damping, i) for i in (12, 13)])
    pairs = [(i, j) for i in range(12) for j in range(i) if source[i] == source[j]]
    true = np.array([influence[i] - influence[j] for i, j in pairs])
    predicted = [np.subtract(*(fitted(np.delete(np.arange(12), [i, j]), damping, at) for at in (i, j))) for i, j in pairs]
    assert own.within == pytest.approx(np.mean(1 - ((true - predicted) ** 2).sum(0) / (true**2).sum(0)))


def test_bandwidths_of_equal_rows():
    """As the program: equal landmarks do not count, and if all are, no kernel is undefined."""
    rows = np.array([[0.0], [0], [0], [0], [3]])
    assert embedding_quality.rbf(rows, 5)[0, 4] == pytest.approx(np.exp(-0.5)) and (embedding_quality.rbf(rows, 4)[:4] == 1).all()


def test_what_is_refused(files, monkeypatch):
    assert "expected 100, --landmarks and --held-out together" in refused(monkeypatch, *arguments(files, files / "good.h5", landmarks=71))
    for name, complaint in (("exact.h5", "not an embedding file"), ("absent.h5", "absent.h5")):
        assert complaint in refused(monkeypatch, *arguments(files, files / name))
    with h5py.File(files / "good.h5", "r+") as file:
        file["embedding"][3] = np.nan
    assert "good.h5: 1 rows are not finite" in refused(monkeypatch, *arguments(files, files / "good.h5"))
    with h5py.File(files / "noise.h5", "r+") as file:
        file["id"][5] = b"zz"
    assert "has no row for 1 samples" in refused(monkeypatch, *arguments(files, files / "noise.h5"))
    with h5py.File(files / "exact.h5", "r+") as file:
        file.attrs["settings"] = json.dumps({"propagation": "kernel-ridge"})
    assert "its run propagated" in refused(monkeypatch, *arguments(files, files / "good.h5"))
    with h5py.File(files / "pool.h5", "r+") as file:
        file["id"][5] = b"zz"
    assert "is not of the samples of" in refused(monkeypatch, *arguments(files, files / "good.h5"))
