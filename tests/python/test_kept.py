"""Names of what jobs keep: the same wherever its inputs lie, another as soon as one of them says something else."""

import os
import shutil
from pathlib import Path

import pytest
from idistill.kept import digest


@pytest.fixture
def inputs(tmp_path):
    directory = tmp_path / "here"
    (directory / "model").mkdir(parents=True)
    (directory / "model/config.json").write_text("{}")
    (directory / "model/tokenizer.json").write_text("[]")
    (directory / "pool.h5").write_text("pool")
    return directory


def name_of(directory: Path, seed: int = 1) -> str:
    model, pool = directory / "model", directory / "pool.h5"
    return digest([["--model", str(model), f"--pool={pool}"], seed], [model, pool])


def test_copy_that_was_written_later_has_the_same_name(inputs, tmp_path):
    before = name_of(inputs)
    shutil.copytree(inputs, tmp_path / "elsewhere/deeper")
    os.utime(inputs / "pool.h5", (1, 1))
    assert name_of(inputs) == name_of(tmp_path / "elsewhere/deeper") == before


@pytest.mark.parametrize("file", ["pool.h5", "model/config.json"])
def test_other_content_of_the_same_size_has_another_name(inputs, file):
    before = name_of(inputs)
    text = (inputs / file).read_text()
    (inputs / file).write_text(text[::-1])
    assert name_of(inputs) != before


def test_other_settings_and_contents_that_changed_places_have_another_name(inputs):
    before = name_of(inputs)
    assert name_of(inputs, seed=2) != before
    (inputs / "model/config.json").rename(inputs / "x")
    (inputs / "model/tokenizer.json").rename(inputs / "model/config.json")
    (inputs / "x").rename(inputs / "model/tokenizer.json")
    assert name_of(inputs) != before


def test_folders_in_a_model_directory_do_not_count(inputs):
    """As `hf download` leaves one."""
    before = name_of(inputs)
    (inputs / "model/.cache").mkdir()
    assert name_of(inputs) == before
