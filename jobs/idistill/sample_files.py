"""Writing samples with fields of any kind: JSON lines, Parquet, or a directory of `datasets`."""

import base64
import bisect
import datetime
import decimal
import json
import math
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from idistill.selected_samples import Found


def check_out(out: Path, pool: list[Path]):
    if out.suffix not in (".jsonl", ".parquet", ""):
        raise ValueError(f"{out}: expected .jsonl, .parquet, or a directory's name without a suffix")
    if out.is_dir():
        raise ValueError(f"{out}: the directory exists already")
    if out.resolve() in map(Path.resolve, pool):
        raise ValueError(f"{out}: is a file of the pool; expected another name for --out")
    check_pool(pool)


def check_pool(pool: list[Path]):
    """Raises ValueError."""
    for path in pool:
        if path.suffix in (".h5", ".hdf5"):
            raise ValueError(f"{path}: is a token file; expected the samples that it was prepared from")


def as_json(value: Any) -> Any:
    """The value in types that JSON knows. Raises TypeError."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name if isinstance(name, str) else str(as_json(name)): as_json(v) for name, v in value.items()}
        case list() | tuple():
            return [as_json(entry) for entry in value]
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case decimal.Decimal():
            return as_json(float(value))
        case bytes():
            return _text(value)
        case uuid.UUID():
            return str(value)
        case np.ndarray() | np.generic():
            return as_json(value.tolist())
    raise TypeError(f"is of the type {type(value).__name__}, which JSON cannot write")


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def json_line(row: Found) -> bytes:
    fields = {}
    for name, value in row.fields.items():
        try:
            fields[name] = as_json(value)
        except TypeError as error:
            raise ValueError(f"{row.place}: field '{name}' {error}; leave the field out of the pool's file") from error
    try:
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
        return json.dumps(fields).encode() + b"\n"


def arrow_table(rows: Iterable[Found]):
    """One column for every field of any row."""
    import pyarrow

    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row.fields)
    return pyarrow.table({name: _arrow_column(name, rows) for name in names})


def _arrow_column(name: str, rows: list[Found]):
    import pyarrow

    values = [row.fields.get(name) for row in rows]

    def problem(count: int) -> Exception | None:
        try:
            pyarrow.array(values[:count])
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            return error

    if problem(len(values)) is None:
        return pyarrow.array(values)
    bad = bisect.bisect_left(range(len(values)), True, key=lambda last: problem(last + 1) is not None)
    raise ValueError(
        f"{rows[bad].place}: field '{name}' does not go into one column with the samples selected before it "
        f"({problem(bad + 1)}); export to .jsonl, or give the field one type"
    )


def write(rows: Iterable[Found], out: Path):
    """Leaves nothing behind where it fails: neither half an output nor a temporary."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    _remove(partial)
    try:
        _write(rows, out.suffix, partial)
        partial.rename(out)
    except BaseException:
        _remove(partial)
        raise


def _write(rows: Iterable[Found], suffix: str, path: Path):
    if suffix == ".jsonl":
        with open(path, "wb") as lines:
            lines.writelines(map(json_line, rows))
        return
    import pyarrow.parquet

    table = arrow_table(rows)
    try:
        if suffix == ".parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            import datasets

            datasets.disable_progress_bars()
            datasets.Dataset(table).save_to_disk(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{error} Export to .jsonl, or leave the field out") from error


def _remove(path: Path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
