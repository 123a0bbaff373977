"""The selected samples in the files that their pool was prepared from, by id."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from idistill.result import Selected
from idistill.rows import BadRow, Place, Reading, Row, possible_ids, row_columns
from idistill.samples import Sample, parse_sample, read_rows

NAMED = 5  # ids in a message


class Found(NamedTuple):
    place: Place
    fields: dict[str, Any]
    sample: Sample | None = None


def find_samples(pool: list[Path], ids: set[str], reading: Reading = Reading()) -> dict[str, Found]:
    """The samples with these ids. Raises ValueError where one is missing or there several times."""
    found: dict[str, Found] = {}
    repeated: defaultdict[str, list[Place]] = defaultdict(list)
    for row in read_rows(*pool, reading=reading):
        own = _selected(row, ids)
        if own is None:
            continue
        if own.sample.id in found:
            repeated[own.sample.id].append(row.place)
        else:
            found[own.sample.id] = own
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
            "from, with the --columns that it was prepared with. A row without an id of its own is known by its file's name (of "
            "several files of one name also by their folders), its line and its content: if no file is left out, the file has "
            "moved or changed since it was prepared: prepare it again, and select again"
        )
    return found


def _more(count: int) -> str:
    return f" and {count - NAMED:,} more" if count > NAMED else ""


def _selected(row: Row, ids: set[str]) -> Found | None:
    """Nothing for rows that were not selected, and for those that are no samples: prepare.py left them out.

    Whether the row's file was prepared alone or together with others of its stem, its id is one of several.
    """
    try:
        fields = row_columns(row)
        own_id = next((own for own in possible_ids(row, fields) if own in ids), None)
        if own_id is None:
            return None
        sample = parse_sample(row)._replace(id=own_id)
    except BadRow:
        return None
    return Found(row.place, {**fields, "id": own_id}, sample)


def export_rows(selection: list[Selected], samples: dict[str, Found]) -> Iterator[Found]:
    for rank, selected in enumerate(selection):
        place, fields, sample = samples[selected.id]
        own = {
            "idistill_rank": rank,
            "idistill_weight": selected.weight,
            "idistill_effective_weight": selected.effective_weight,
            "idistill_influence": selected.influence,
            "idistill_task": selected.task,
            "idistill_column": selected.column,
        }
        yield Found(place, fields | own, sample)
