"""Files that idistill_mpi writes: HDF5 with the root attributes `format` and `version`."""

from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

BLOCK = 65_536  # rows in memory at once, where some are picked


class OutputFile:
    """Read access to datasets, by their path in the file, and attributes.

    Every ValueError names the file, what was expected in which place, what was found, and what to give instead.
    """

    kind = "a file of idistill_mpi"
    remedy = "give what an idistill_mpi of this version wrote"
    versions = {"idistill-weights": 1, "idistill-embedding": 1}  # {format: its version}

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise self.error(f"no such file; expected {self.kind}")
        if not h5py.is_hdf5(self.path):
            raise self.error(f"not {self.kind}, nor another HDF5 file")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise self.error(f"cannot be read, it may be cut: {error}") from error
        self.attributes: dict[str, Any] = {name: _plain(value) for name, value in self._file.attrs.items()}
        try:
            self._check()
        except ValueError:
            self.close()
            raise

    def _check(self):
        form, version = (self.attributes.get(name, "none") for name in ("format", "version"))
        if form not in self.versions:
            raise self.error(f"not {self.kind}: attribute format: expected {' or '.join(self.versions)}, found {form}")
        if version != self.versions[form]:
            raise self.error(f"attribute version: expected {self.versions[form]}, found {version}")

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self.path}: {problem}; {self.remedy}")

    def attribute(self, name: str) -> Any:
        if name not in self.attributes:
            raise self.error(f"attribute {name}: expected in {self.kind}, found none")
        return self.attributes[name]

    def dataset(self, name: str) -> h5py.Dataset:
        if not isinstance(found := self._file.get(name), h5py.Dataset):
            raise self.error(f"dataset {name}: expected in {self.kind}, found none")
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole dataset."""
        return self.dataset(name)[()]

    def rows(self, name: str, index: np.ndarray) -> np.ndarray:
        """Rows of a dataset for an index in any order, without reading it whole at once."""
        dataset = self.dataset(name)
        rows = np.empty((len(index), *dataset.shape[1:]), dataset.dtype)
        for start in range(0, len(dataset), BLOCK):
            here = (index >= start) & (index < start + BLOCK)
            if here.any():
                rows[here] = dataset[start : start + BLOCK][index[here] - start]
        return rows

    def texts(self, name: str) -> list[str]:
        return [text.decode() for text in self[name]]

    def names(self) -> list[str]:
        """Of all datasets, those in groups too."""
        found = []
        self._file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        return found

    def close(self):
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_):
        self.close()


class EmbeddingFile(OutputFile):
    """Rows for samples by id."""

    kind = "an embedding file"
    remedy = "give one from idistill_mpi embed"
    versions = {"idistill-embedding": 1}

    def of(self, ids: list[str]) -> np.ndarray:
        """(n x e) in fp64, all finite. Raises ValueError."""
        place = {own: row for row, own in enumerate(self.texts("id"))}
        missing = [own for own in ids if own not in place]
        if missing:
            raise ValueError(f"{self.path}: has no row for {len(missing)} samples, '{missing[0]}' among them")
        rows = self["embedding"][[place[own] for own in ids]].astype(float)
        if not np.isfinite(rows).all():
            bad = (~np.isfinite(rows)).any(1).sum()
            raise ValueError(f"{self.path}: {bad} rows are not finite; expected one for every sample")
        return rows


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
