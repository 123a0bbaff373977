"""Samples of instruction pools: reading their files row by row, and turning rows into conversations.

A file is JSON lines, Parquet, or a directory saved by `datasets`. A row has a conversation in one of three forms:
    messages: [{role, content}, ...]  |  prompt, completion  |  instruction, [input], output
and may have an id (default: "<file name>-<row number>") and a source (default: the file name), file_names() says which.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROLES = ("system", "developer", "user", "assistant", "tool")
FORMS = "'messages', or 'prompt' and 'completion', or 'instruction' and 'output' (with an optional 'input')"
UNSUPPORTED_FIELDS = ("tool_calls", "reasoning_content", "reasoning", "thinking")


class BadRow(Exception):
    """A row that is not a sample; the text says what is wrong and what was expected."""


class Place(NamedTuple):
    path: Path
    unit: str  # "line" of JSON lines, else "row"
    number: int  # from 1

    def __str__(self) -> str:
        return f"{self.path}: {self.unit} {self.number}"


class Row(NamedTuple):
    place: Place
    file_name: str  # one of file_names()
    content: bytes | dict  # a line of JSON as it was read, or a row's columns


class Sample(NamedTuple):
    id: str
    source: str
    messages: list[dict[str, str]]


def file_names(paths: list[Path]) -> dict[Path, str]:
    """What rows without an id and a source of their own are called after: {path: name}, in order.

    A file's stem where no other file has it, otherwise with as many parent folders as tell the two apart:
    math/train.jsonl beside code/train.jsonl is "math/train". Where two files of one folder have the same stem, names
    keep their suffixes. Raises ValueError where a file is given twice.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    if len(set(absolute)) < len(paths):
        raise ValueError(f"{Counter(absolute).most_common(1)[0][0]}: given twice; expected every file once")
    parts = [(*path.parts[:-1], path.stem) for path in absolute]
    if len(set(parts)) < len(parts):
        parts = [path.parts for path in absolute]
    ends = Counter(part[-depth:] for part in parts for depth in range(1, len(part) + 1))
    return {path: "/".join(_shortest_own_end(part, ends)) for path, part in zip(paths, parts)}


def _shortest_own_end(parts: tuple[str, ...], ends: Counter) -> tuple[str, ...]:
    return next(parts[-depth:] for depth in range(1, len(parts) + 1) if ends[parts[-depth:]] == 1)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _load_dataset(path: Path):
    from datasets import DatasetDict, load_from_disk

    dataset = load_from_disk(str(path))
    if isinstance(dataset, DatasetDict):
        splits = ", ".join(str(path / name) for name in dataset)
        raise ValueError(f"{path}: holds several splits, name the one to read: {splits}")
    return dataset


def count_rows(path: Path) -> int:
    """The number of rows, without keeping any: blank lines of JSON lines count."""
    if path.is_dir():
        return len(_load_dataset(path))
    if _is_parquet(path):
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(path).metadata.num_rows
    with open(path, "rb") as lines:
        return sum(1 for _ in lines)


def read_rows(path: Path, file_name: str) -> Iterator[Row]:
    """The rows of one file, in order and streamed. Blank lines of JSON lines are passed over, but count."""
    if path.is_dir():
        for number, columns in enumerate(_load_dataset(path), 1):
            yield Row(Place(path, "row", number), file_name, columns)
    elif _is_parquet(path):
        import pyarrow.parquet

        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for number, columns in enumerate(batch.to_pylist(), number + 1):
                yield Row(Place(path, "row", number), file_name, columns)
    else:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield Row(Place(path, "line", number), file_name, line)


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
            raise BadRow(f"found a JSON {type(columns).__name__}, expected a JSON object")
    return {name: value for name, value in columns.items() if value is not None}


def sample_id(row: Row, columns: dict[str, Any]) -> str:
    """Of a row's columns, or its default. Raises BadRow."""
    return _label(columns, "id", f"{row.file_name}-{row.place.number}")


def parse_sample(row: Row) -> Sample:
    """Raises BadRow where the row is not a sample."""
    columns = row_columns(row)
    return Sample(
        sample_id(row, columns),
        _label(columns, "source", row.file_name),
        _conversation(columns),
    )


def _label(columns: dict[str, Any], name: str, default: str) -> str:
    value = columns.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise BadRow(f"'{name}' is {_shown(value)}, expected a non-empty string or an integer")
    if "\0" in value or not _is_unicode(value):
        raise BadRow(f"'{name}' is {_shown(value)}, expected text without zero bytes and lone surrogates")
    return value


def _conversation(columns: dict[str, Any]) -> list[dict[str, str]]:
    if "messages" in columns:
        return _messages(columns["messages"])
    if "prompt" in columns and "completion" in columns:
        user, assistant = _text(columns, "prompt"), _text(columns, "completion")
    elif "instruction" in columns and "output" in columns:
        user, assistant = _text(columns, "instruction"), _text(columns, "output")
        context = _text(columns, "input") if "input" in columns else ""
        if context.strip():
            user = f"{user}\n\n{context}"
    else:
        raise BadRow(f"found {', '.join(map(repr, columns)) or 'no fields'}; expected {FORMS}")
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _messages(messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, list):
        raise BadRow(f"'messages' is {_shown(messages)}, expected a list of objects with 'role' and 'content'")
    conversation = []
    for number, message in enumerate(messages, 1):
        where = f"message {number}"
        if not isinstance(message, dict):
            raise BadRow(f"{where} is {_shown(message)}, expected an object with 'role' and 'content'")
        for name in UNSUPPORTED_FIELDS:
            if message.get(name):
                raise BadRow(f"{where} has '{name}'; expected plain messages of 'role' and 'content'")
        if message.get("role") not in ROLES:
            raise BadRow(f"{where} has the role {_shown(message.get('role'))}, expected one of {', '.join(ROLES)}")
        conversation.append({"role": message["role"], "content": _text(message, "content", f"{where}: ")})
    return conversation


def _text(fields: dict[str, Any], name: str, where: str = "") -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadRow(f"{where}'{name}' is {_shown(value)}, expected a string")
    if not _is_unicode(value):
        raise BadRow(f"{where}'{name}' has a lone surrogate, expected text")
    return value


def _is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
