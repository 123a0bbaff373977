"""Result, through which everything reads what idistill_mpi wrote."""

import math
import re

import h5py
import numpy as np
import pytest
from idistill.output_file import EmbeddingFile, OutputFile
from idistill.result import Result
from idistill.token_file import TokenFileWriter
from result_files import write_result

IDS = ["é0", "s1", "s2", "s3", "s4"]
SCORES = [[0.5, 1.0], [2.0, 0.0], [9.0, 9.0], [np.nan, np.nan], [1.0, 3.0]]  # row 2 is quarantined all the same


@pytest.fixture
def path(tmp_path):
    return write_result(
        tmp_path / "weights.h5", ids=IDS, sources=["web", "math", "web", "web", "math"], scores=SCORES, tasks=["chät", "code"],
        columns=["c-0", "c-1", "d-0"], column_task=[0, 0, 1], selected=[4, 0, 1], selected_columns=[2, -1, 1],
        weights=[1.5, 1.0, 0.5], quarantined=[2, 3], norms=[1, 2, 1, np.nan, 4],
    )  # fmt: skip


def test_the_selection_in_its_order(path):
    with Result(path) as result:
        selection = result.selection()
    assert [(own.id, own.row, own.source) for own in selection] == [("s4", 4, "math"), ("é0", 0, "web"), ("s1", 1, "math")]
    assert [(own.task, own.column) for own in selection] == [("code", "d-0"), (None, None), ("chät", "c-1")]
    assert [own.weight for own in selection] == [1.5, 1.0, 0.5]
    assert [own.influence for own in selection] == [{"chät": 1.0, "code": 3.0}, {"chät": 0.5, "code": 1.0}, {"chät": 2.0, "code": 0.0}]
    raw = np.array([1.5 / 4, 1.0, 0.5 / 2])  # weights over gradient norms, as with cosine
    np.testing.assert_allclose([own.effective_weight for own in selection], raw / raw.mean())


def test_without_norms_weights_are_of_raw_losses(path):
    """Influence that is none of gradients."""
    with h5py.File(path, "a") as file:
        del file["gradient_norm"]
    with Result(path) as result:
        assert [own.effective_weight for own in result.selection()] == [1.5, 1.0, 0.5]


def test_scores_leave_out_the_quarantined(path):
    with Result(path) as result:
        np.testing.assert_array_equal(result.scores("code"), [1, 0, np.nan, np.nan, 3])
        np.testing.assert_array_equal(result.scores(), [0.75, 1, np.nan, np.nan, 2])
        with pytest.raises(ValueError, match="weights.h5: has no task 'maths', only chät, code"):
            result.scores("maths")


def test_sources_of_the_pool_and_of_the_best(path):
    with Result(path) as result:
        assert result.pool_sources() == {"web": 3, "math": 2}
        assert result.best_sources("chät", 2) == {"math": 2, "web": 0}
        with pytest.raises(ValueError, match="4 samples asked for, 3 eligible"):
            result.best_sources("chät", 4)


def test_datasets_by_name(path, monkeypatch):
    monkeypatch.setattr("idistill.output_file.BLOCK", 2)
    with Result(path) as result:
        assert len(result) == 5 and result.tasks == ["chät", "code"] and result.texts("id") == IDS
        np.testing.assert_array_equal(result.rows("score", np.array([4, 0, 4])), [[1, 3], [0.5, 1], [1, 3]])
        assert {"score", "selected/index", "column/task"} <= set(result.names())
        assert "quarantine/index" in result and "landmark/index" not in result
        np.testing.assert_allclose(result["weight"].sum(), len(result))


def test_what_the_run_says_of_itself(path):
    with Result(path) as result:
        assert result.setting("normalize") == "cosine" and result.seconds == 2.0
    with h5py.File(path, "r+") as file:
        file.attrs["units_recovered"] = 3
    with Result(path) as result:
        assert math.isnan(result.seconds)  # an earlier run did a part of the work


def changed(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def as_group(file):
    del file["score"]
    file.create_group("score")


@pytest.mark.parametrize("change, place, expected, found", [
    (lambda file: file.attrs.update(format="idistill-tokens"), "attribute format", "idistill-weights", "idistill-tokens"),
    (lambda file: file.attrs.__delitem__("format"), "attribute format", "idistill-weights", "none"),
    (lambda file: file.attrs.update(version=2), "attribute version", "1", "2"),
    (lambda file: file.attrs.__delitem__("version"), "attribute version", "1", "none"),
    (lambda file: file.__delitem__("score"), "dataset score", "in a result of idistill_mpi", "none"),
    (as_group, "dataset score", "in a result of idistill_mpi", "none"),
    (lambda file: file.attrs.__delitem__("settings"), "attribute settings", "in a result of idistill_mpi", "none"),
    (lambda file: file.attrs.update(settings="{}"), "attribute settings", "a value of 'normalize'", "none"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_what_was_expected_and_found(path, change, place, expected, found):
    changed(path, change)
    with pytest.raises(ValueError) as caught:
        with Result(path) as result:
            result.selection()
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and f"{place}: expected {expected}, found {found}; " in message
    assert message.endswith("give the --out of a finished idistill_mpi run of this version")


@pytest.mark.parametrize("make, problem", [
    (lambda path: path.unlink(), "no such file; expected a result of idistill_mpi; give the --out"),
    (lambda path: path.write_text("text"), "not a result of idistill_mpi, nor another HDF5 file; give the --out"),
    (lambda path: path.write_bytes(path.read_bytes()[:-512]), "cannot be read, it may be cut: .*; give the --out"),
])  # fmt: skip
def test_files_that_cannot_be_read(path, make, problem):
    make(path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {problem}"):
        Result(path)


def test_other_files_of_the_project(tmp_path, path):
    with TokenFileWriter(tmp_path / "pool.h5", "0" * 64, 8) as file:
        file.append("a", "b", np.zeros(3, np.int32), np.ones(3, np.uint8))
    with h5py.File(tmp_path / "embedding.h5", "w") as file:
        file.attrs.update({"format": "idistill-embedding", "version": 1})
        file["id"], file["embedding"] = [b"a", b"b"], np.eye(2, dtype=np.float32)
    for name in ("pool", "embedding"):
        with pytest.raises(ValueError, match=f"{name}.h5: not a result of idistill_mpi: attribute format: expected idistill-weights"):
            Result(tmp_path / f"{name}.h5")
    with pytest.raises(ValueError, match="not an embedding file: .* found idistill-weights; give one from idistill_mpi embed"):
        EmbeddingFile(path)
    with EmbeddingFile(tmp_path / "embedding.h5") as file:
        np.testing.assert_array_equal(file.of(["b", "a"]), [[0, 1], [1, 0]])
    for own in (path, tmp_path / "embedding.h5"):
        with OutputFile(own) as file:
            assert "id" in file.names()
