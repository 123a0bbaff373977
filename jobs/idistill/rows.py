"""Rows of sample files: where they are, what their file says of them, and their default ids."""

import datetime
import decimal
import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

PLAIN_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, bytes, uuid.UUID)  # by str()


class BadRow(Exception):
    """A row that is not a sample; the text says what is wrong and what was expected."""


@contextmanager
def naming(place: "Place"):
    """A bad row within is a ValueError that names it."""
    try:
        yield
    except BadRow as error:
        raise ValueError(f"{place}: {error}") from error


class Tags(NamedTuple):
    """How messages are spelt."""

    role: str  # the fields
    content: str
    roles: dict[str, str]  # {as it is written: as chat templates know it}


class Reading(NamedTuple):
    """What a user says of the rows, where it does not follow from them."""

    form: str | None = None  # a form that is taken only where it is asked for
    columns: dict[str, str] = {}  # {name that a form knows: column that holds it}
    sources: tuple[tuple[str, str], ...] = ()  # (name, glob of the files that are of it)
    tags: Tags | None = None
    between: str = "\n\n"  # an instruction and its input


class Origin(NamedTuple):
    """What a file says of its rows."""

    stem: str  # in default ids
    stems: tuple[str, ...]  # the same, where the file is read together with others
    source: str
    is_named: bool  # the source is the user's word, and stands above the rows' own
    reading: Reading


class Place(NamedTuple):
    path: Path
    unit: str  # "line" of JSON lines, else "row"
    number: int  # from 1

    def __str__(self) -> str:
        return f"{self.path}: {self.unit} {self.number}"


class Row(NamedTuple):
    place: Place
    origin: Origin
    content: bytes | dict  # JSON as it was read, or a row's columns


def row_columns(row: Row) -> dict[str, Any]:
    """The columns that have a value. Raises BadRow where a line is not a JSON object."""
    columns = row.content
    if isinstance(columns, bytes):
        try:
            columns = json.loads(columns)
        except UnicodeDecodeError as error:
            raise BadRow(f"not valid UTF-8 ({error.reason} at byte {error.start}); expected a JSON object") from error
        except json.JSONDecodeError as error:
            raise BadRow(f"not valid JSON ({error.msg} at column {error.colno}); expected a JSON object") from error
        except (ValueError, RecursionError) as error:
            raise BadRow(f"not JSON that can be read ({error}); expected a JSON object") from error
        if not isinstance(columns, dict):
            array = "; the name of a file that is one JSON array must end with .json" if isinstance(columns, list) else ""
            raise BadRow(f"found a JSON {type(columns).__name__}, expected a JSON object{array}")
    return {name: value for name, value in columns.items() if value is not None}


def sample_id(row: Row, columns: dict[str, Any]) -> str:
    """Of a row's columns, or its default. Raises BadRow."""
    return next(possible_ids(row, columns, (row.origin.stem,)))


def possible_ids(row: Row, columns: dict[str, Any], stems: tuple[str, ...] | None = None) -> Iterator[str]:
    """Its own id, or the default ids that it has when its file is read alone or together with others. Raises BadRow."""
    own = row.origin.reading.columns.get("id", "id")
    if own in columns:
        yield label(columns[own], "id")
        return
    digest = _digest(row.content if isinstance(row.content, bytes) else columns)
    for stem in row.origin.stems if stems is None else stems:
        yield label(f"{stem}-{row.place.number}-{digest}", "id")


def _digest(content: bytes | dict) -> str:
    """8 hex digits, the same for one content in every process."""
    if isinstance(content, dict):
        content = json.dumps(content, sort_keys=True, default=_plain).encode()
    return hashlib.blake2b(content.strip(), digest_size=4).hexdigest()


def _plain(value: Any) -> Any:
    """Of a type that JSON does not know, what a digest takes: no memory addresses."""
    if hasattr(value, "tolist"):  # of NumPy and PyTorch
        return value.tolist()
    return str(value) if isinstance(value, PLAIN_TEXT) else type(value).__name__


def label(value: Any, name: str) -> str:
    """Of an id or a source. Raises BadRow."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise BadRow(f"'{name}' is {shown(value)}, expected a non-empty string or an integer")
    if "\0" in value or not is_unicode(value):
        raise BadRow(f"'{name}' is {shown(value)}, expected text without zero bytes and lone surrogates")
    return value


def text(value: Any, name: str, where: str = "") -> str:
    """Raises BadRow."""
    if not isinstance(value, str):
        raise BadRow(f"{where}'{name}' is {shown(value)}, expected a string")
    if not is_unicode(value):
        raise BadRow(f"{where}'{name}' has a lone surrogate, expected text")
    return value


def parsed(value: Any, name: str, where: str = "") -> Any:
    """JSON that is written as text, as Parquet and CSV often have it; other values as they are. Raises BadRow."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{where}'{name}' is {shown(value)}, which is not valid JSON ({error})") from error


def is_unicode(value: str) -> bool:
    """False for lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    if value is None:
        return "missing"
    written = repr(value)
    return written if len(written) <= 60 else written[:57] + "..."
