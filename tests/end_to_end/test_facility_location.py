"""Subset selection through `idistill_mpi select`, on results and embedding files made by hand."""

import re

import h5py
import numpy as np
import pytest
from idistill.result import Result
from made_files import write_embedding
from program import attributes, run, run_alone

BY_FILE = ["--selection", "facility-location", "--similarity"]


def fixed_length(values: list[str]) -> np.ndarray:
    encoded = [value.encode() for value in values]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded))))


def clustered(rows: int, width: int, clusters: int, seed: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, width))
    return (centres[random.integers(clusters, size=rows)] + 0.6 * random.normal(size=(rows, width))).astype(np.float32)


def write_pool(path, influence: np.ndarray, ids: list[str], quarantined=()):
    """A result as a run leaves it, with what `select` needs."""
    rows, columns = influence.shape
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "idistill-weights", "version": 1, "settings": '{"columns": "tasks", "influence": "gradient"}'})
        file["influence"] = influence.astype(np.float32)
        file["id"] = fixed_length(ids)
        file["tokens"] = np.full(rows, 10, np.int32)
        file["source/name"] = fixed_length(["even", "odd"])
        file["source/index"] = np.arange(rows, dtype=np.int32) % 2
        file["task/name"] = fixed_length([f"task {t}" for t in range(columns)])
        file["column/task"] = np.arange(columns, dtype=np.int32)
        file["quarantine/index"] = np.array(quarantined, np.int64)
    return path


class Pool:
    def __init__(self, folder, rows: int, width: int = 24, clusters: int = 20, columns: int = 4):
        random = np.random.default_rng(1)
        self.ids = [f"sample-{row}" for row in range(rows)]
        self.quarantined = [3, rows - 1] if rows > 4 else []
        self.influence = random.normal(size=(rows, columns)).astype(np.float32)
        self.influence[self.quarantined] = np.nan
        self.embedding = clustered(rows, width, clusters)
        self.result = write_pool(folder / "pool.h5", self.influence, self.ids, self.quarantined)
        # In another order, with rows of other samples, without the quarantined ones.
        order = random.permutation([row for row in range(rows) if row not in self.quarantined])
        self.other = clustered(2, width, 1, seed=8)
        self.file = write_embedding(
            folder / "embedding.h5", [self.ids[row] for row in order] + ["other-0", "other-1"],
            np.concatenate([self.embedding[order], self.other]))

    def cosines(self) -> np.ndarray:
        """(represented x candidates), 0 for rows that are quarantined."""
        unit = self.embedding / np.linalg.norm(self.embedding, axis=1, keepdims=True)
        unit[self.quarantined] = 0
        return np.maximum(unit.astype(float) @ unit.T.astype(float), 0)


def select(ranks, result, out, *arguments):
    run(ranks, "select", "--result", result, "--out", out, *arguments)
    with Result(out) as read:
        return read["selected/index"].tolist()


def refused(result, out, *arguments, exit_code) -> str:
    return run_alone("select", "--result", result, "--out", out, *arguments, exit_code=exit_code)


def check_greedy(picks, similarity: np.ndarray, candidates, cover=None, cap=np.inf):
    """Every pick adds most, to rounding of float32: two that stand for each other add the same."""
    cover = np.zeros(len(similarity)) if cover is None else cover.copy()
    reached = np.minimum(similarity, np.reshape(cap, (-1, 1)))
    left = set(candidates)
    for place, pick in enumerate(picks):
        among = sorted(left)
        gains = dict(zip(among, np.maximum(reached[:, among] - cover[:, None], 0).sum(0)))
        assert gains[pick] > max(gains.values()) - 1e-5, place
        left.remove(pick)
        cover = np.maximum(cover, reached[:, pick])
    return cover


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return Pool(tmp_path_factory.mktemp("facility"), 600)


def test_by_an_embedding_file(pool, tmp_path):
    """Against dense greedy in numpy; 30 % without --select; the same file at 1, 2, 3 and 5 ranks."""
    usable = [row for row in range(600) if row not in pool.quarantined]
    similarity = pool.cosines()
    outs = [tmp_path / f"{ranks}.h5" for ranks in (1, 2, 3, 5)]
    picks = [select(ranks, pool.result, out, *BY_FILE, pool.file) for ranks, out in zip((1, 2, 3, 5), outs)]
    assert len(picks[0]) == 180
    check_greedy(picks[0], similarity, usable)
    assert picks[1:] == picks[:1] * 3
    written = [attributes(out) for out in outs]
    objective = similarity[:, picks[0]].max(1).sum()
    assert written[0]["selection_objective"] == pytest.approx(objective, rel=1e-5)
    assert objective <= written[0]["selection_bound"] < 1.2 * objective
    for other in written[1:]:
        assert all(other[f"selection_{name}"] == written[0][f"selection_{name}"] for name in ("objective", "bound", "gains"))
    # Another rule leaves none of it behind.
    select(1, outs[0], tmp_path / "again.h5", "--selection", "top-k")
    assert not [name for name in attributes(tmp_path / "again.h5") if name in ("selection_objective", "selection_bound")]


def test_what_is_held(pool, tmp_path):
    """Ids of a text list, some of them not in the pool, or of an earlier result."""
    similarity = pool.cosines()
    held = [7, 100, 250]
    listed = tmp_path / "held.txt"
    listed.write_text("".join(f"{pool.ids[row]}\n" for row in held) + "other-1\n")
    unit = pool.embedding / np.linalg.norm(pool.embedding, axis=1, keepdims=True)
    other = pool.other[1] / np.linalg.norm(pool.other[1])
    cover = 0.8 * np.maximum(similarity[:, held].max(1), unit @ other)
    candidates = [row for row in range(600) if row not in [*pool.quarantined, *held]]
    arguments = ["--selection", "facility-location-cg", "--nu", 0.8, "--select", 40]
    found = select(2, pool.result, tmp_path / "out.h5", *arguments, "--similarity", pool.file, "--held", listed)
    cover[pool.quarantined] = 0
    assert len(found) == 40
    check_greedy(found, similarity, candidates, cover)

    first = tmp_path / "first.h5"
    before = select(1, pool.result, first, *BY_FILE, pool.file, "--select", 25)
    then = select(1, pool.result, tmp_path / "then.h5", *arguments, "--similarity", pool.file, "--held", first)
    assert not set(before) & set(then)
    check_greedy(then, similarity, [row for row in range(600) if row not in [*pool.quarantined, *before]],
                 0.8 * similarity[:, before].max(1))
    by_influence = select(1, pool.result, tmp_path / "influence.h5", *arguments, "--held", first)
    assert not set(before) & set(by_influence)


def test_too_much_for_what_is_not_held(pool, inputs, tmp_path):
    """Is said before anything is computed."""
    listed = tmp_path / "held.txt"
    listed.write_text("".join(f"{own}\n" for row, own in enumerate(pool.ids[:500]) if row not in pool.quarantined))
    arguments = ["--selection", "facility-location-cg", "--similarity", pool.file, "--held", listed]
    out = tmp_path / "out.h5"
    said = refused(pool.result, out, *arguments, exit_code=2)
    assert f"held: {len(listed.read_text().splitlines())} samples, {len(listed.read_text().splitlines())} of them in the pool" in said
    assert "180 asked for, 99 eligible" in said
    listed.write_text("".join(f"{sample.id}\n" for sample in inputs.pool[:-10]))
    said = run_alone(*inputs.arguments(out, "--selection", "facility-location-cg", "--held", listed), exit_code=2)
    assert "eligible. Ask for" in said and "label targets" not in said


def test_for_targets(pool, tmp_path):
    """sum_t max_j P_jt + eta sum_j max_t P_jt, and with similarities of samples min(max_j s_ij, eta max_t P_it)."""
    usable = [row for row in range(600) if row not in pool.quarantined]
    scaled = np.zeros_like(pool.influence, dtype=float)
    known = pool.influence[usable].astype(float)
    scaled[usable] = (known - known.min()) / (known.max() - known.min())
    found = select(2, pool.result, tmp_path / "influence.h5", "--selection", "facility-location-mi", "--eta", 0.1, "--select", 30)
    left, cover, picks = list(usable), np.zeros(4), []
    for _ in range(30):
        gains = np.maximum(scaled[left] - cover, 0).sum(1) + 0.1 * scaled[left].max(1)
        picks.append(left.pop(int(np.argmax(gains))))
        cover = np.maximum(cover, scaled[picks[-1]])
    assert found == picks
    by_file = select(1, pool.result, tmp_path / "file.h5", "--selection", "facility-location-mi", "--eta", 0.5, "--select", 30,
                     "--similarity", pool.file)
    assert len(by_file) == 30
    check_greedy(by_file, pool.cosines(), usable, cap=0.5 * scaled.max(1))


def test_caps_and_tokens(pool, tmp_path):
    capped = select(1, pool.result, tmp_path / "cap.h5", *BY_FILE, pool.file, "--select", 50, "--source-cap", "odd=7")
    assert len(capped) == 50 and sum(row % 2 for row in capped) == 7
    assert len(select(2, pool.result, tmp_path / "tokens.h5", *BY_FILE, pool.file, "--select-tokens", 205)) == 20


def test_bad_input(pool, tmp_path):
    out = tmp_path / "out.h5"
    ids = [name for row, name in enumerate(pool.ids) if row not in (*pool.quarantined, 17)]
    short = write_embedding(tmp_path / "short.h5", ids, np.ones((len(ids), 3)))
    said = refused(pool.result, out, *BY_FILE, short, exit_code=3)
    assert "short.h5" in said and "1 missing: 'sample-17'" in said
    listed = tmp_path / "held.txt"
    for text, found in (("sample-5\nnobody\n", "1 that it has not: 'nobody'"), ("", "at least one"),
                        ("sample-5\nsample-6\nsample-5\n", "'sample-5' at places 0 and 2")):
        listed.write_text(text)
        for similarity in ("influence", pool.file):
            said = refused(pool.result, out, "--selection", "facility-location-cg", "--held", listed, "--similarity", similarity,
                           exit_code=3)
            assert "held.txt" in said and found in said
    said = refused(pool.result, out, "--selection", "facility-location-cg", exit_code=2)
    assert "--held" in said
    said = refused(pool.result, out, *BY_FILE, "network", exit_code=2)
    assert "--propagation network" in said
    assert not out.exists()


def test_a_run_selects_the_same(inputs, tmp_path):
    """In a run and in `select` from its result; a sample without a finite row is quarantined nowhere but left out."""
    rows = clustered(len(inputs.pool), 16, 10)
    rows[5] = np.nan
    file = write_embedding(tmp_path / "rows.h5", [sample.id for sample in inputs.pool], rows)
    chosen = [*BY_FILE, file, "--select", 40]
    said = run(2, *inputs.arguments(tmp_path / "run.h5", *chosen, "--landmarks", 40))
    select(3, tmp_path / "run.h5", tmp_path / "again.h5", *chosen)
    with Result(tmp_path / "run.h5") as first, Result(tmp_path / "again.h5") as second:
        assert first["selected/index"].tolist() == second["selected/index"].tolist()
        assert 5 not in first["selected/index"]
    assert re.search(r"facility location: objective .* no selection within the limits has more than", said)
    assert "selection of" in run(1, "plan", *inputs.arguments(tmp_path / "plan.h5", *chosen, "--landmarks", 40))


def test_against_submodlib(tmp_path):
    """Equal picks on dense kernels of 1,000 samples, unless their gains are equal to rounding."""
    functions = pytest.importorskip("submodlib.functions", reason="submodlib-py is not installed: pip install submodlib-py")
    pool = Pool(tmp_path, 1000, clusters=150)
    usable = [row for row in range(1000) if row not in pool.quarantined]
    similarity = pool.cosines()[np.ix_(usable, usable)]
    count = 200
    theirs = functions.facilityLocation.FacilityLocationFunction(n=len(usable), mode="dense", sijs=similarity, separate_rep=False)
    picked = [row for row, _ in theirs.maximize(budget=count, optimizer="LazyGreedy", show_progress=False)]
    ours = select(2, pool.result, tmp_path / "a.h5", *BY_FILE, pool.file, "--select", count)
    same_but_for_ties(similarity, [usable.index(row) for row in ours], picked)
    held = list(range(0, 100, 10))
    listed = tmp_path / "held.txt"
    listed.write_text("\n".join(pool.ids[usable[place]] for place in held))
    queries = similarity[:, held]
    theirs = functions.facilityLocationConditionalGain.FacilityLocationConditionalGainFunction(
        n=len(usable), num_privates=len(held), data_sijs=similarity, private_sijs=queries, privacyHardness=1)
    picked = [row for row, _ in theirs.maximize(budget=count, optimizer="LazyGreedy", show_progress=False)]
    ours = select(2, pool.result, tmp_path / "b.h5", "--selection", "facility-location-cg", "--similarity", pool.file, "--held", listed,
                  "--select", count)
    picked = [row for row in picked if row not in held][:count]
    same_but_for_ties(similarity, [usable.index(row) for row in ours], picked, queries.max(1))
    # Mutual information on the influence itself: submodlib's query form with the targets as queries.
    scaled = pool.influence[usable].astype(float)
    scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min())
    theirs = functions.facilityLocationVariantMutualInformation.FacilityLocationVariantMutualInformationFunction(
        n=len(usable), num_queries=scaled.shape[1], query_sijs=scaled, queryDiversityEta=0.3)
    picked = [row for row, _ in theirs.maximize(budget=50, optimizer="NaiveGreedy", show_progress=False)]
    ours = select(2, pool.result, tmp_path / "c.h5", "--selection", "facility-location-mi", "--eta", 0.3, "--select", 50)
    assert [usable.index(row) for row in ours] == picked


def same_but_for_ties(similarity, ours, theirs, cover=None):
    """Equal until two samples add the same; from there on what both come to is."""
    assert len(ours) == len(theirs)
    different = next((place for place, (mine, other) in enumerate(zip(ours, theirs)) if mine != other), len(ours))
    assert different > 20
    covers = [check_greedy(picks, similarity, range(len(similarity)), cover) for picks in (ours, theirs)]
    assert covers[0].sum() == pytest.approx(covers[1].sum(), rel=1e-4)
