"""What jobs do alike that turn samples into a file: find their inputs, leave out what is no sample of its own, and count."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from idistill.files import File, find_files
from idistill.first_places import FirstPlaces
from idistill.rows import Place, Reading


class Refused(ValueError):
    """More bad lines than tolerated."""


class Bad(NamedTuple):
    place: Place
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


class BadLines(list[Bad]):
    """Those that were left out."""

    def __init__(self, tolerated: int):
        super().__init__()
        self.tolerated = tolerated

    def leave_out(self, bad: Bad):
        """Raises Refused, which names all of them."""
        self.append(bad)
        if len(self) > self.tolerated:
            raise Refused("\n".join([*map(str, self), f"bad lines ({self.tolerated} tolerated, see --max-bad-lines)"]))


def input_files(inputs: list[Path], out: Path, reading: Reading) -> list[File]:
    """Raises ValueError, also where `out` is one of them."""
    files = find_files(inputs, reading)
    if out.resolve() in (file.path.resolve() for file in files):
        raise ValueError(f"{out}: is an input; expected another name for --out")
    return files


def check_found(samples: int, inputs: list[Path]):
    """Raises ValueError where there are none."""
    if not samples:
        raise ValueError(f"{', '.join(map(str, inputs))}: found no samples, expected at least one")


def with_own_ids(results: Iterable, rows: int, bad_lines: BadLines) -> Iterator:
    """Of at most `rows`, each a Bad or something with `place` and `id`: those whose id no earlier one has. Raises Refused."""
    places = FirstPlaces(rows)
    for result in results:
        if not isinstance(result, Bad) and (taken := places.take(result.id.encode(), result.place)):
            result = Bad(result.place, f"the id '{result.id}' is taken by {taken}; expected ids that differ")
        if isinstance(result, Bad):
            bad_lines.leave_out(result)
        else:
            yield result


def counts_table(counts: list[tuple[int, str]], bad_lines: BadLines) -> str:
    """What there is more than none of, a line each, and the bad lines."""
    lines = [f"{count:>12,}  {what}" for count, what in [*counts, (len(bad_lines), "bad lines, left out")] if count]
    return "\n".join([*lines, *(f"{'':14}{bad}" for bad in bad_lines)])
