"""Samples that pool and target share, by content: warned of with counts, and left out where that is asked for."""

import h5py
import numpy as np
import pytest
from program import assert_same, run
from tiny import write_tokens


@pytest.fixture(scope="module")
def sharing(inputs, tmp_path_factory):
    """Pool files with five samples of target math, one of them twice, and one of code, and two that only look like it."""
    code = inputs.targets["code"]
    math = [sample for sample in inputs.targets["math"] if sample.mask[1:].any()]
    other_labels = code[2]._replace(mask=np.where(np.arange(len(code[2].mask)) == 1, 1 - code[2].mask, code[2].mask))
    shared = [*math[:5], math[0], code[1]]
    rows = list(inputs.pool)
    places = [7, 30, 31, 100, 139, 190, 201]
    for place, sample in zip(places, shared):
        rows[place] = sample._replace(id=f"shared-{place}", source=rows[place].source)
    rows[8] = other_labels._replace(id="other labels")
    rows[9] = code[3]._replace(id="cut", tokens=code[3].tokens[:-1], mask=code[3].mask[:-1])
    directory = tmp_path_factory.mktemp("sharing")
    files = [write_tokens(directory / f"{i}.h5", part) for i, part in enumerate([rows[:80], rows[80:150], rows[150:]])]
    return files, places, rows


def warnings(inputs, hint):
    size = {name: len(own) for name, own in inputs.targets.items()}
    return [f"warning: 6 samples of the pool are also in target math, 5 of its {size['math']} (equal tokens and labels){hint}",
            f"warning: 1 sample of the pool is also in target code, 1 of its {size['code']} (equal tokens and labels){hint}"]


def repeated(rows):
    content = [(s.tokens.tobytes(), s.mask[1:].tobytes()) for s in rows if s.mask[1:].any()]
    return len(content) - len(set(content))


@pytest.mark.parametrize("ranks", [1, 3])
def test_what_pool_and_target_share_is_said(inputs, sharing, tmp_path, ranks):
    files, _, rows = sharing
    said = run(ranks, "plan", *inputs.arguments(tmp_path / "w.h5", "--landmarks", 30, pool=files))
    for line in warnings(inputs, ": their influence on it is that on themselves; --drop-overlap leaves them out"):
        assert said.count(line) == 1, said
    assert f"note: {repeated(rows)} pool samples repeat one before (equal tokens and labels)" in said
    assert "has" not in run(ranks, "plan", *inputs.arguments(tmp_path / "w.h5", "--landmarks", 30)).split("warning: target")[-1]


def test_drop_overlap_leaves_them_out(inputs, sharing, tmp_path):
    files, places, _ = sharing
    outs = [tmp_path / f"{ranks}.h5" for ranks in (1, 3)]
    for ranks, out in zip((1, 3), outs):
        said = run(ranks, *inputs.arguments(out, "--propagation", "none", "--drop-overlap", pool=files))
        assert all(line in said for line in warnings(inputs, "\n")) and "7 pool samples left out: also of a target" in said
        with h5py.File(out) as file:
            dropped = file["quarantine/index"][:][file["quarantine/reason"].asstr()[:] == "also of a target"]
            assert dropped.tolist() == places
            assert np.isnan(file["influence"][:][places]).all() and not file["weight"][:][places].any()
            assert not set(places) & set(file["selected/index"][:].tolist())
    assert_same(*outs)


def test_a_pool_that_is_its_own_target(inputs, tmp_path):
    arguments = ["--model", inputs.model, "--pool", inputs.target_files["code"], "--target", f"code={inputs.target_files['code']}",
                 "--out", tmp_path / "w.h5", "--select", 2]
    count = len(inputs.targets["code"])
    assert f"warning: {count} samples of the pool are also in target code, {count} of its {count}" in run(2, "plan", *arguments)
    said = run(2, "plan", *arguments, "--drop-overlap", exit_code=3)
    assert f"found {count} also of a target. Give other targets or another pool, or leave --drop-overlap out." in said
