"""Rows of one file: JSON lines, JSON arrays, CSV, compressed or not, Parquet, and directories saved by `datasets`."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idistill.files import File, format_of
from idistill.json_array import Elements
from idistill.model_directory import is_pointer
from idistill.rows import Place, Row

BATCH = 128  # rows of Parquet in memory at once: few, since rows may be long
BLOCK = 1 << 20  # bytes or characters read at once
csv.field_size_limit(1 << 26)  # characters of a cell: an open quotation mark does not take in a whole file

ZSTD = b"\x28\xb5\x2f\xfd"
FOREIGN = {
    b"PAR1": "Parquet, whose name ends with .parquet",
    b"\x1f\x8b": "gzip, whose name ends with .gz",
    ZSTD: "zstd, whose name ends with .zst",
    b"\x89HDF": "HDF5, as token files are: name the samples that it was prepared from",
    b"ARROW1": "Arrow: name the directory that `datasets` saved",
    b"PK\x03\x04": "zip: unpack it",
    b"BZh": "bzip2: unpack it",
    b"\xfd7zXZ": "xz: unpack it",
    b"\xff\xfe": "text in UTF-16: convert it to UTF-8",
    b"\xfe\xff": "text in UTF-16: convert it to UTF-8",
}


def count_rows(file: File) -> int:
    """The number of rows, without keeping any: blank lines of JSON lines count. Raises ValueError and OSError."""
    path, (suffix, _) = file.path, format_of(file.path)
    with _named(path):
        if path.is_dir():
            return len(_load_dataset(path))
        if suffix == ".parquet":
            return _open_parquet(path).metadata.num_rows
        if suffix in (".csv", ".tsv") or _is_array(path):
            return sum(1 for _ in read_file(file))
        with _opened(path) as lines:
            return sum(1 for _ in lines)


def read_file(file: File) -> Iterator[Row]:
    """In order and streamed. Blank lines of JSON lines are passed over, but count. Raises ValueError and OSError."""
    path, origin = file
    suffix, _ = format_of(path)
    unit, number = "row", 0
    with _named(path):
        if path.is_dir():
            rows = _load_dataset(path)
        elif suffix == ".parquet":
            rows = _parquet(path)
        elif suffix in (".csv", ".tsv"):
            rows = _csv(path, "\t" if suffix == ".tsv" else ",")
        elif _is_array(path):
            rows = _array(path)
        else:
            unit, rows = "line", _lines(path)
        for number, content in enumerate(rows, 1):
            if content is not None:
                yield Row(Place(path, unit, number), origin, content)


@contextmanager
def _named(path: Path):
    """Errors name the file."""
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, *_arrow_errors()) as error:
        if getattr(error, "filename", None) is not None:
            raise
        raise ValueError(f"{path}: cannot be read: {error}{_remedy(path, error)}") from error


def _remedy(path: Path, error: Exception) -> str:
    """Of what is not as the file's name says."""
    if isinstance(error, UnicodeDecodeError):
        return "; expected UTF-8: convert the file"
    suffix, compression = format_of(path)
    if compression == "gzip" and path.open("rb").read(2) != b"\x1f\x8b" or compression == "zstd" and path.open("rb").read(4) != ZSTD:
        return f"; it is not packed as {path.suffix} says: rename it"
    if compression and not isinstance(error, csv.Error):
        return "; it may have been cut short: get it again"
    return ""


def _arrow_errors() -> tuple[type[Exception]]:
    """Loaded only when something fails: that takes long."""
    import pyarrow

    return (pyarrow.ArrowException,)


def _load_dataset(path: Path):
    from datasets import DatasetDict, load_from_disk

    dataset = load_from_disk(str(path))
    if isinstance(dataset, DatasetDict):
        splits = ", ".join(str(path / name) for name in dataset)
        raise ValueError(f"{path}: holds several splits, name the one to read: {splits}")
    return dataset


def _open_parquet(path: Path):
    import pyarrow.parquet

    if format_of(path)[1]:
        raise ValueError(f"{path}: is packed; unpack it: Parquet is read in pieces, and is compressed within")
    _refuse_pointer(path)
    # With a buffer, a column of a row group is read piece by piece, however large the group is.
    return pyarrow.parquet.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False)


def _parquet(path: Path) -> Iterator[dict]:
    for batch in _open_parquet(path).iter_batches(BATCH, use_threads=False):
        yield from batch.to_pylist()


def _opened(path: Path) -> io.BufferedIOBase:
    """What a file holds, unpacked."""
    if not path.is_file():
        raise ValueError(f"{path}: is not a regular file; expected one, as it is read twice")
    _refuse_pointer(path)
    _, compression = format_of(path)
    if compression is None:
        return _refuse_foreign(path, open(path, "rb"))
    import pyarrow

    return _refuse_foreign(path, io.BufferedReader(pyarrow.input_stream(str(path), compression=compression), BLOCK))


def _refuse_pointer(path: Path):
    if is_pointer(path):
        raise ValueError(f"{path}: is a pointer of Git LFS, not the data; fetch it with `git lfs pull`")


def _refuse_foreign(path: Path, data: io.BufferedReader) -> io.BufferedReader:
    head = data.peek(32)
    kind = next((kind for magic, kind in FOREIGN.items() if head.startswith(magic)), None)
    if kind:
        data.close()
        raise ValueError(f"{path}: expected JSON lines, a JSON array or CSV, found {kind}")
    return data


def _lines(path: Path) -> Iterator[bytes | None]:
    with _opened(path) as lines:
        for line in lines:
            yield line if line.strip() else None


def _is_array(path: Path) -> bool:
    """By its name and its first character: in JSON lines an array is a row that is none."""
    if format_of(path)[0] != ".json":
        return False
    with _opened(path) as data:
        head = data.read(BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.partition(b"\n")[0].strip() == b"{":
        raise ValueError(f"{path}: is one JSON object over several lines; expected a JSON array of objects, or an object on every line")
    return head.startswith(b"[")


def _array(path: Path) -> Iterator[bytes]:
    with _opened(path) as data:
        # Bytes that are no UTF-8 stay as they are: the row that holds them is the one to refuse.
        text = io.TextIOWrapper(data, "utf-8-sig", "surrogateescape")
        try:
            for element in Elements(text):
                yield element.encode("utf-8", "surrogateescape")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _csv(path: Path, delimiter: str) -> Iterator[dict]:
    """By the names in the first line; an empty cell is no value."""
    with _opened(path) as data:
        rows = csv.reader(io.TextIOWrapper(data, "utf-8-sig", newline=""), delimiter=delimiter, strict=True)
        header = next(rows, [])
        if len(set(header)) < len(header):
            repeated = next(name for name in header if header.count(name) > 1)
            raise ValueError(f"{path}: the first line names '{repeated}' several times; expected a name for every column")
        number = 0
        for cells in rows:
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                raise ValueError(f"{path}: row {number} (line {rows.line_num}): has {len(cells)} cells, expected {len(header)} as the "
                                 "first line; quote cells that hold the delimiter or line breaks")  # fmt: skip
            yield {name: cell or None for name, cell in zip(header, cells)}
