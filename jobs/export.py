#!/usr/bin/env python3
"""Writes the samples that idistill_mpi selected, in order of selection.

Every sample keeps its own fields and gets five more: idistill_rank (from 0), idistill_weight (mean 1 over the
selection), idistill_influence (per task, mean over the task's target samples), and idistill_task and
idistill_column, the target that chose it. Samples are matched by id.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from result_file import Selected, read_selection
from samples import BadRow, Place, read_rows, row_columns, sample_id


def find_samples(pool: list[Path], ids: set[str]) -> dict[str, dict]:
    """The fields of the samples with these ids. Raises ValueError where one is missing or there twice."""
    found: dict[str, dict] = {}
    places: dict[str, Place] = {}
    for path in pool:
        for row in read_rows(path):
            try:
                columns = row_columns(row)
                own_id = sample_id(row, columns)
            except BadRow:
                continue  # prepare.py left it out, so it cannot have been selected
            if own_id not in ids:
                continue
            if own_id in found:
                raise ValueError(f"{row.place}: the id '{own_id}' is also at {places[own_id]}")
            found[own_id] = {**columns, "id": own_id}
            places[own_id] = row.place
    missing = [own_id for own_id in ids if own_id not in found]
    if missing:
        files = ", ".join(map(str, pool))
        raise ValueError(
            f"the selected sample '{min(missing)}' is not in {files} ({len(missing):,} of {len(ids):,} are missing); "
            "give every file that the pool was prepared from"
        )
    return found


def export_rows(selection: list[Selected], samples: dict[str, dict]) -> Iterable[dict]:
    for rank, selected in enumerate(selection):
        yield {
            **samples[selected.id],
            "idistill_rank": rank,
            "idistill_weight": selected.weight,
            "idistill_influence": selected.influence,
            "idistill_task": selected.task,
            "idistill_column": selected.column,
        }


def write(rows: Iterable[dict], out: Path):
    """Never leaves a half-written output under its name."""
    partial = out.with_name(out.name + ".partial")
    if out.suffix == ".jsonl":
        with open(partial, "w", encoding="utf-8") as lines:
            for row in rows:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    elif out.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_same_fields(rows)), partial)
    else:
        import datasets

        datasets.disable_progress_bars()
        datasets.Dataset.from_list(_same_fields(rows)).save_to_disk(partial)
    partial.rename(out)


def _same_fields(rows: Iterable[dict]) -> list[dict]:
    """Arrow takes the columns from the first row: every row gets those of all rows."""
    rows = list(rows)
    empty = dict.fromkeys(name for row in rows for name in row)
    return [{**empty, **row} for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result file of idistill_mpi")
    parser.add_argument("--pool", nargs="+", type=Path, required=True, help="the files that the pool was prepared from")
    parser.add_argument("--out", type=Path, required=True, help="X.jsonl, X.parquet, or a new directory for datasets")
    options = parser.parse_args()
    try:
        if options.out.suffix not in (".jsonl", ".parquet", ""):
            raise ValueError(f"{options.out}: expected .jsonl, .parquet, or a directory's name without a suffix")
        if options.out.is_dir():
            raise ValueError(f"{options.out}: the directory exists already")
        selection = read_selection(options.result)
        samples = find_samples(options.pool, {selected.id for selected in selection})
        write(export_rows(selection, samples), options.out)
    except (ValueError, OSError) as error:
        sys.exit(f"export.py: {error}")
    print(f"{options.out}: {len(selection):,} samples")


if __name__ == "__main__":
    main()
