#!/usr/bin/env python3
"""Writes the samples that idistill_mpi selected, in order of selection.

Every sample keeps its own fields and gets six more: idistill_rank (from 0), idistill_weight (mean 1 over the
selection), idistill_effective_weight (to multiply the sample's mean token loss with in training: with --normalize
cosine the weight over the sample's gradient norm, otherwise the weight; mean 1 over the selection),
idistill_influence (per task, mean over the task's target samples), and idistill_task and idistill_column, the target
that chose it. Samples are matched by id, and each selected id must be found once: a row without an id of its own is not
found where it has moved or changed since prepare.py read it. JSON lines take what JSON does not know as text (dates in
ISO 8601, bytes that are no UTF-8 in base64), as numbers (decimals, durations in seconds) or as null (numbers that are
not finite).
"""

import argparse
import base64
import bisect
import datetime
import decimal
import json
import math
import shutil
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from result_file import Selected, read_selection
from samples import BadRow, Place, Row, check_given_once, parse_sample, read_rows, row_columns, sample_id

NAMED = 5  # ids in a message


class Found(NamedTuple):
    place: Place
    fields: dict[str, Any]


def find_samples(pool: list[Path], ids: set[str]) -> dict[str, Found]:
    """The samples with these ids. Raises ValueError where one is missing or there several times."""
    found: dict[str, Found] = {}
    repeated: defaultdict[str, list[Place]] = defaultdict(list)
    check_given_once(pool)
    for path in pool:
        for row in read_rows(path):
            fields = _fields_of_sample(row, ids)
            if fields is None:
                continue
            if fields["id"] in found:
                repeated[fields["id"]].append(row.place)
            else:
                found[fields["id"]] = Found(row.place, fields)
    if repeated:
        shown = [
            f"\n  '{own_id}' {len(others) + 1} times: {', '.join(map(str, [found[own_id].place, *others]))}"
            for own_id, others in list(repeated.items())[:NAMED]
        ]
        raise ValueError(
            f"{len(repeated):,} of the {len(ids):,} selected ids are in the pool's files several times, expected once:"
            f"{''.join(shown)}{_more(len(repeated))}\nGive only the files that the pool was prepared from, and empty the "
            "lines that prepare.py left out as bad (or give those rows of a Parquet file another id)"
        )
    missing = sorted(ids - found.keys())
    if missing:
        raise ValueError(
            f"{len(missing):,} of the {len(ids):,} selected ids are not in {', '.join(map(str, pool))}:\n  "
            f"{', '.join(map(repr, missing[:NAMED]))}{_more(len(missing))}\nGive every file that the pool was prepared "
            "from. A row without an id of its own is known by its file's name, its line and its content: if no file is "
            "left out, the file has changed since it was prepared: prepare it again, and select again"
        )
    return found


def _more(count: int) -> str:
    return f" and {count - NAMED:,} more" if count > NAMED else ""


def _fields_of_sample(row: Row, ids: set[str]) -> dict[str, Any] | None:
    """Nothing for rows that were not selected, and for those that are no samples: prepare.py left them out."""
    try:
        fields = row_columns(row)
        own_id = sample_id(row, fields)
        if own_id not in ids:
            return None
        parse_sample(row)
    except BadRow:
        return None
    return {**fields, "id": own_id}


def export_rows(selection: list[Selected], samples: dict[str, Found]) -> Iterator[Found]:
    for rank, selected in enumerate(selection):
        place, fields = samples[selected.id]
        own = {
            "idistill_rank": rank,
            "idistill_weight": selected.weight,
            "idistill_effective_weight": selected.effective_weight,
            "idistill_influence": selected.influence,
            "idistill_task": selected.task,
            "idistill_column": selected.column,
        }
        yield Found(place, fields | own)


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


def check_out(out: Path, pool: list[Path]):
    if out.suffix not in (".jsonl", ".parquet", ""):
        raise ValueError(f"{out}: expected .jsonl, .parquet, or a directory's name without a suffix")
    if out.is_dir():
        raise ValueError(f"{out}: the directory exists already")
    if out.resolve() in map(Path.resolve, pool):
        raise ValueError(f"{out}: is a file of the pool; expected another name for --out")
    for path in pool:
        if path.suffix in (".h5", ".hdf5"):
            raise ValueError(f"{path}: is a token file; expected the samples that it was prepared from")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result file of idistill_mpi")
    parser.add_argument(
        "--pool", nargs="+", action="extend", type=Path, required=True,
        help="the files that the pool was prepared from, all of them; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="X.jsonl, X.parquet, or a new directory for datasets")
    options = parser.parse_args()
    try:
        check_out(options.out, options.pool)
        selection = read_selection(options.result)
        samples = find_samples(options.pool, {selected.id for selected in selection})
        write(export_rows(selection, samples), options.out)
    except (ValueError, OSError) as error:
        sys.exit(f"export.py: {error}")
    print(f"{options.out}: {len(selection):,} samples")


if __name__ == "__main__":
    main()
