"""Embeddings beyond the standard one: several at once, chosen, from a file, written by `embed`."""

import os
import re
import signal

import numpy as np
import pytest
import truth
from idistill.output_file import OutputFile
from interrupting import at_unit, left_over, units_recovered
from made_files import write_embedding
from program import Job, assert_same, attributes, datasets, run, run_alone, text
from tiny import load_model

LANDMARKS = ["--landmarks", 60]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(inputs):
    return load_model(inputs.model)


@pytest.fixture(scope="module")
def usable(inputs):
    return np.array([truth.is_usable(s) for s in inputs.pool])


def read(path, *names):
    with OutputFile(path) as file:
        return [file[name] for name in names]


@pytest.fixture(scope="module")
def proxy(inputs, usable, tmp_path_factory):
    """An embedding of the pool by no model at all, in another order, with rows of other samples."""
    random = np.random.default_rng(4)
    rows = random.normal(size=(len(inputs.pool), 7))
    rows[~usable] = np.nan
    ids = [s.id for s in inputs.pool] + ["someone else", "and another"]
    order = random.permutation(len(ids))
    all_rows = np.concatenate([rows, random.normal(size=(2, 7))])
    path = tmp_path_factory.mktemp("proxy") / "proxy.h5"
    return write_embedding(path, [ids[i] for i in order], all_rows[order]), rows


@pytest.mark.parametrize("kernel", ["sum", "product", "auto"])
def test_two_embeddings_done_again(inputs, model, usable, proxy, tmp_path, kernel):
    """Rows of the file found by their ids, hidden states of transformers, their kernels added or multiplied."""
    path, rows = proxy
    out = tmp_path / "out.h5"
    said = run(2, *inputs.arguments(out, *LANDMARKS, "--embedding", f"hidden+{path}", "--kernel", kernel, "--jvp-blocks", 2,
                                    *inputs.unit))
    index, labels, influence = read(out, "landmark/index", "landmark/influence", "influence")
    found = attributes(out)
    if kernel == "auto":
        table = re.findall(r"^ +\S+ +(sum|product) +\S+ +(?:with|without) +(\S+)(  chosen)?$", said, re.M)
        errors = {own: float(error) for own, error, _ in table}
        assert [own for own, _, chosen in table if chosen] == [min(errors, key=errors.get)] == [found["kernel"]]
        assert sorted(errors) == ["product", "sum"]
        kernel = found["kernel"]
    assert found["kernel"] == kernel
    samples = [s for s in inputs.pool if truth.is_usable(s)]
    place = np.cumsum(usable) - 1
    kept = usable[index]
    landmarks = place[index[kept]]
    kernels, widths = zip(*(truth.rbf(e, landmarks) for e in (truth.hidden_embeddings(model, samples, 2), rows[usable])))
    assert np.allclose(read(out, "embedding/bandwidth")[0], widths, rtol=TOLERANCE)
    assert text(read(out, "embedding/name")[0]) == ["hidden", str(path)]
    lengths = np.log([[len(s.tokens), s.mask[1:].sum()] for s in samples])
    source = np.array([s.source for s in samples])
    metadata = truth.rbf(lengths, landmarks)[0] + (source[:, None] == source[landmarks])
    together = (kernels[0] * kernels[1] + metadata) / 3 if kernel == "product" else (kernels[0] + kernels[1] + metadata) / 4
    coefficients, offset = truth.ridge(together[landmarks], labels[kept].astype(float), found["damping"], bool(found["intercept"]))
    others = np.setdiff1d(np.arange(len(samples)), landmarks)
    expected = (together @ coefficients + offset)[others]
    assert np.abs(influence[usable][others] - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_file_that_lacks_samples_is_refused(inputs, usable, proxy, tmp_path):
    rows = proxy[1]
    wanted = [i for i in np.flatnonzero(usable)][:2]
    ids = [s.id for i, s in enumerate(inputs.pool) if i not in wanted]
    path = write_embedding(tmp_path / "few.h5", ids, np.delete(rows, wanted, 0))
    said = run_alone(*inputs.arguments(tmp_path / "out.h5", *LANDMARKS, "--embedding", path), exit_code=3)
    assert "few.h5" in said and "2 missing" in said and all(f"'{inputs.pool[i].id}'" in said for i in wanted)


def test_samples_without_a_finite_row_are_left_out_and_told(inputs, usable, proxy, tmp_path):
    rows, ids = proxy[1].copy(), [s.id for s in inputs.pool]
    lost = np.flatnonzero(usable)[::3]
    rows[lost] = np.nan
    path = write_embedding(tmp_path / "holes.h5", ids, rows)
    said = run(2, *inputs.arguments(tmp_path / "out.h5", *LANDMARKS, "--contrast", 0, "--embedding", path))
    influence, landmarks, exact = read(tmp_path / "out.h5", "influence", "landmark/index", "exact")
    without = np.isin(landmarks, lost).sum()
    assert without > 0 and f"warning: {without} of {len(landmarks)} landmarks left out: their --embedding is not finite" in said
    unknown = np.setdiff1d(lost, landmarks)
    assert np.isnan(influence[unknown]).all() and not exact[unknown].any()
    assert np.isfinite(influence[np.setdiff1d(np.flatnonzero(usable), lost)]).all()

    path = write_embedding(tmp_path / "none.h5", ids, np.full_like(rows, np.nan))
    said = run_alone(*inputs.arguments(tmp_path / "none.out.h5", *LANDMARKS, "--embedding", path), exit_code=3)
    assert "none.h5: embeddings of the landmarks: expected at least one that is finite" in said


@pytest.mark.parametrize("change,complaint", [
    ({"format": "idistill-weights"}, "idistill-embedding"), ({"version": 2}, "attribute version"), (None, "every id once"),
])
def test_a_file_that_is_something_else_is_refused(inputs, proxy, tmp_path, change, complaint):
    rows = proxy[1]
    ids = [s.id for s in inputs.pool]
    if change is None:
        ids[9] = ids[8]
    path = write_embedding(tmp_path / "other.h5", ids, rows, **(change or {}))
    assert complaint in run_alone(*inputs.arguments(tmp_path / "out.h5", *LANDMARKS, "--embedding", path), exit_code=3)


def test_auto_takes_the_cheapest_near_the_best(inputs, proxy, tmp_path):
    out = tmp_path / "auto.h5"
    one_unit = ["--unit-flops", "1e15"]  # the same micro-batches whatever is chosen
    said = run(2, *inputs.arguments(out, *LANDMARKS, "--embedding", f"auto+{proxy[0]}", *one_unit))
    names, error, cost, within = read(out, *(f"embedding/candidate/{n}" for n in ("name", "loo_error", "cost", "loo_r2_within_source")))
    names = text(names)
    assert names[:2] == ["jvp", "hidden"] and len(names) == 7 and names[6] == f"jvp+hidden+{proxy[0]}"
    near = error <= 1.02 * error.min()
    chosen = names[int(np.argmin(np.where(near, cost, np.inf)))]
    assert attributes(out)["embedding"] == chosen
    assert [line.split()[0] for line in said.splitlines() if line.endswith("  chosen")] == [chosen]
    assert cost[2] < cost[1] < cost[0] < cost[3] < cost[6]
    # every candidate alone has the figures of the table, and the chosen one the same influences
    for i, name in enumerate(names):
        alone = tmp_path / f"{i}.h5"
        run_alone(*inputs.arguments(alone, *LANDMARKS, "--embedding", name, *one_unit))
        assert np.allclose(read(alone, "task/loo_r2_within_source")[0].mean(), within[i], atol=1e-6)
        if name == chosen:
            assert datasets(alone)["influence"] == datasets(out)["influence"]


def test_gradient_tails_predict_better_than_hidden_states(inputs, tmp_path):
    """All blocks' gradients tell almost everything about influence; half of them less, but more than states do."""
    r2 = {}
    for embedding in ("hidden", "gradient-tail:5"):
        run(2, *inputs.arguments(tmp_path / "out.h5", "--landmarks", 150, "--embedding", embedding, "--overwrite"))
        r2[embedding] = read(tmp_path / "out.h5", "task/loo_r2_within_source")[0].mean()
    assert r2["gradient-tail:5"] > r2["hidden"] + 0.1, r2


def embed(inputs, out, *extra):
    return ["embed", "--model", inputs.model, "--pool", inputs.pool_file, "--out", out, *extra]


def test_embed_writes_what_a_run_computes(inputs, model, usable, tmp_path):
    out = tmp_path / "hidden.h5"
    run(2, *embed(inputs, out, "--embedding", "hidden", "--jvp-blocks", 2, *inputs.unit))
    rows, ids = read(out, "embedding", "id")
    assert text(ids) == [s.id for s in inputs.pool]
    samples = [s for s in inputs.pool if truth.is_usable(s)]
    assert np.array_equal(np.isfinite(rows).all(1), usable) and not np.isfinite(rows[~usable]).any()
    expected = truth.hidden_embeddings(model, samples, 2)
    assert np.abs(rows[usable] - expected).max() < TOLERANCE * np.abs(expected).max()
    influence = {}
    for embedding, extra in (("hidden", ["--jvp-blocks", 2]), (out, [])):
        run(2, *inputs.arguments(tmp_path / "run.h5", *LANDMARKS, "--embedding", embedding, *extra, "--overwrite"))
        influence[embedding] = read(tmp_path / "run.h5", "influence")[0]
    assert np.allclose(influence["hidden"], influence[out], atol=1e-4, equal_nan=True)


def test_embedded_gradients_keep_cosines_and_serve_another_model(inputs, model, usable, tmp_path):
    out = tmp_path / "gradient.h5"
    run(2, *embed(inputs, out, "--embedding", "gradient", "--embedding-dim", 5 * 32 * 32))
    rows = read(out, "embedding")[0][usable]
    assert rows.shape[1] == 5 * 32 * 32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    gradients = truth.unit_rows(truth.gradients(model, [s for s in inputs.pool if truth.is_usable(s)]))
    error = rows @ rows.T - gradients @ gradients.T
    assert np.abs(error).max() < 0.3 and np.sqrt((error**2).mean()) < 0.06
    run(2, *inputs.arguments(tmp_path / "run.h5", "--landmarks", 150, "--embedding", f"hidden+{out}"))
    within = read(tmp_path / "run.h5", "task/loo_r2_within_source")[0].mean()
    assert within > 0.3


def test_embed_gives_the_same_bits_at_any_number_of_ranks_and_after_a_kill(inputs, tmp_path):
    extra = ["--embedding", "gradient-tail:2", "--unit-flops", 1]
    run(1, *embed(inputs, tmp_path / "1.h5", *extra))
    run(3, *embed(inputs, tmp_path / "3.h5", *extra))
    out = tmp_path / "killed.h5"
    with Job(2, *embed(inputs, out, *extra)) as job:
        pids = at_unit(job, out, "pool", 60)
        os.kill(pids[1], signal.SIGKILL)
        assert job.wait(30) != 0
    assert not out.exists()
    run(2, *embed(inputs, out, *extra))
    assert units_recovered(out) >= 60 and left_over(out) == []
    for other in (tmp_path / "3.h5", out):
        assert_same(other, tmp_path / "1.h5")
    run_alone(*embed(inputs, out, *extra), exit_code=4)
    assert "belongs to a run" in run_alone(*embed(inputs, out, "--landmarks", 5), exit_code=2)
