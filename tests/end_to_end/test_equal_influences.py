"""A pool that influence does not tell apart: said, and selected from by the order of the pool, not by rounding."""

import h5py
import numpy as np
import pytest
from program import run
from tiny import make_pool, write_tokens

ROWS, SELECTED = 60, 7
SAID = "warning: all influences are equal, to within rounding"
EXACT = ("--propagation", "none")
RULES = {
    "weighted": (), "first-order": ("--order", "first-order"), "fisher": ("--learning-rate", 0.1),
    "round-robin": ("--selection", "round-robin"), "top-k": ("--selection", "top-k"), "tasks": ("--columns", "tasks"),
}


@pytest.fixture(scope="module")
def equal_pool(inputs, tmp_path_factory):
    """One sample again and again, in two sources, with one between that cannot be used."""
    samples, _ = make_pool(1)
    empty = samples[0]._replace(tokens=samples[0].tokens[:0], mask=samples[0].mask[:0])
    one = next(s for s in inputs.pool if len(s.tokens) > 20 and s.source == "web" and s.tokens.max() < 90)
    rows = [one._replace(id=f"same-{i}", source="even" if i % 2 == 0 else "odd") for i in range(ROWS)]
    rows[1] = empty._replace(id="empty", source="odd")
    return write_tokens(tmp_path_factory.mktemp("equal") / "pool.h5", rows)


def selected(path):
    with h5py.File(path) as file:
        return file["selected/index"][:].tolist(), file["selected/weight"][:], dict(file.attrs)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_the_first_of_the_pool_are_selected_with_equal_weights(inputs, equal_pool, tmp_path, ranks, rule):
    out = tmp_path / "w.h5"
    for propagation in (EXACT, ("--landmarks", 20)):
        said = run(ranks, *inputs.arguments(out, "--select", SELECTED, "--overwrite", *RULES[rule], *propagation, pool=[equal_pool]))
        assert said.count(SAID) == 1 and "in the order of the pool, with equal weights" in said, said
        assert "nan gain" not in said and "ranking is mostly noise" not in said and "learning rate" not in said, said
        assert ("there is nothing to predict, hence no R2" in said) == (propagation != EXACT)
        index, weight, attributes = selected(out)
        assert index == [0, *range(2, SELECTED + 1)]
        assert np.array_equal(weight, np.ones(SELECTED, np.float32))
        assert attributes.get("weights_learning_rate", 0.0) == 0.0


def test_limits_and_another_selection_hold(inputs, equal_pool, tmp_path):
    out, again = tmp_path / "w.h5", tmp_path / "again.h5"
    said = run(2, *inputs.arguments(out, "--select", 10, "--landmarks", 20, "--refine", 2, "--source-share", "even=0.3", pool=[equal_pool]))
    assert SAID in said and "that gains no influence over the pool" in said, said
    index, _, _ = selected(out)
    assert index == [0, 2, 3, 4, 5, 7, 9, 11, 13, 15]
    said = run(2, "select", "--result", out, "--out", again, "--selection", "top-k", "--select", 4, "--source-cap", "even=1")
    assert SAID in said
    assert selected(again)[0] == [0, 3, 5, 7]
    said = run(2, "select", "--result", out, "--out", again, "--overwrite", "--lambda", 0.5, "--order", "first-order")
    assert SAID in said
    assert len(selected(again)[0]) == ROWS - 1
    said = run(1, "select", "--result", out, "--out", again, "--overwrite", "--selection", "random", "--select", 4)
    assert SAID in said and selected(again)[0] != [0, 2, 3, 4]  # random goes by the seed


def test_other_pools_are_not_called_equal(inputs, tmp_path):
    assert SAID not in run(2, *inputs.arguments(tmp_path / "w.h5", "--landmarks", 30))
