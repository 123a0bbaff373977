"""--landmarks auto: as many landmarks as leave-one-out finds worth their cost, and nothing else than with so many."""

import shutil

import h5py
import numpy as np
import pytest
from idistill.result import Result
from program import assert_same, run
from tiny import Inputs

OPTIONS = ["--columns", "tasks", "--select", 40]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("growth"), 1200)


@pytest.fixture(scope="module")
def grown(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("grown") / "2.h5"
    return out, run(2, *inputs.arguments(out, "--landmarks", "auto", *OPTIONS))


def growth_in(path) -> dict[str, np.ndarray]:
    with Result(path) as result:
        return {name.rpartition("/")[2]: result[name] for name in result.names() if name.startswith("landmark/growth/")}


def test_it_stops_where_a_doubling_gains_less_than_a_hundredth(grown):
    growth = growth_in(grown[0])
    counts, r2 = growth["landmarks"], growth["loo_r2"]
    assert list(counts) == [256 * 2**i for i in range(len(counts))] and len(counts) > 1
    gains = np.diff(r2)
    assert (gains[:-1] >= 0.01).all() and gains[-1] < 0.01
    assert "a doubling gained less than 0.01" in grown[1]
    with Result(grown[0]) as result:
        assert len(result["landmark/index"]) == counts[-1]
        assert result["task/loo_r2"].mean() == pytest.approx(r2[-1], rel=1e-12)
        assert result["task/loo_spearman"].mean() == pytest.approx(growth["loo_spearman"][-1], rel=1e-12)
        assert result["exact"].sum() >= counts[-1] - 10


def test_it_is_the_run_with_so_many(inputs, grown, tmp_path):
    growth = growth_in(grown[0])
    run(1, *inputs.arguments(tmp_path / "fixed.h5", "--landmarks", growth["landmarks"][-1], *OPTIONS))
    shutil.copyfile(grown[0], tmp_path / "grown.h5")
    with h5py.File(tmp_path / "grown.h5", "r+") as file:
        del file["landmark/growth"]
    assert_same(tmp_path / "fixed.h5", tmp_path / "grown.h5")
    run(2, *inputs.arguments(tmp_path / "first.h5", "--landmarks", 256, *OPTIONS))
    with Result(tmp_path / "first.h5") as result:
        assert result["task/loo_r2"].mean() == growth["loo_r2"][0]


def test_a_budget_ends_it(inputs, tmp_path):
    said = run(3, *inputs.arguments(tmp_path / "out.h5", "--landmarks", "auto:300", *OPTIONS))
    assert growth_in(tmp_path / "out.h5")["landmarks"].tolist() in ([256, 300], [256])
    assert "300 landmarks: " in said and "as many as allowed" in said


@pytest.mark.parametrize("ranks", [1, 3, 5])
def test_at_any_number_of_ranks(inputs, grown, tmp_path, ranks):
    run(ranks, *inputs.arguments(tmp_path / "out.h5", "--landmarks", "auto", *OPTIONS))
    assert_same(tmp_path / "out.h5", grown[0])
