"""Samples of instruction pools: reading their files row by row, and turning rows into conversations.

A file is JSON lines, Parquet, or a directory saved by `datasets`. A row has a conversation in one of three forms:
    messages: [{role, content}, ...]  |  prompt, completion  |  instruction, [input], output
and may have an id and a source. The default source is the file's stem, the default id
"<stem>-<row number>-<8 hex digits of a digest of the row>": a row that was moved or edited has another id.
"""

import datetime
import decimal
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROLES = ("system", "developer", "user", "assistant", "tool")
FORMS = "'messages', or 'prompt' and 'completion', or 'instruction' and 'output' (with an optional 'input')"
UNSUPPORTED_FIELDS = ("tool_calls", "reasoning_content", "reasoning", "thinking")
PLAIN_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, bytes, uuid.UUID)  # by str()


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
    stem: str  # of the file
    content: bytes | dict  # a line of JSON as it was read, or a row's columns


class Sample(NamedTuple):
    """A conversation as chat templates take it."""

    id: str
    source: str
    messages: list[dict[str, Any]]  # role and content, text; where a row has them tool_calls, reasoning_content, name, tool_call_id
    learnt: list[bool]  # by message: whether what an assistant says there is to carry labels
    tools: list[dict[str, Any]]  # as JSON schemas
    unused: list[str]  # columns that the form of the row does not use


def check_given_once(paths: list[Path]):
    """Raises ValueError."""
    path, count = Counter(map(os.path.abspath, paths)).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{path}: given twice; expected every file once")


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _load_dataset(path: Path):
    from datasets import DatasetDict, load_from_disk

    if not any(path.glob("*.json")):  # dataset_info.json, state.json or dataset_dict.json
        raise ValueError(f"{path}: is a directory without a saved dataset; name the files in it, as in {path}/*.jsonl")
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


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one file, in order and streamed. Blank lines of JSON lines are passed over, but count."""
    stem = Path(os.path.abspath(path)).stem  # that of "." too
    if path.is_dir():
        for number, columns in enumerate(_load_dataset(path), 1):
            yield Row(Place(path, "row", number), stem, columns)
    elif _is_parquet(path):
        import pyarrow.parquet

        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for number, columns in enumerate(batch.to_pylist(), number + 1):
                yield Row(Place(path, "row", number), stem, columns)
    else:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield Row(Place(path, "line", number), stem, line)


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
    if "id" in columns:
        return _label(columns["id"], "id")
    content = row.content if isinstance(row.content, bytes) else columns
    return _label(f"{row.stem}-{row.place.number}-{_digest(content)}", "id")


def parse_sample(row: Row) -> Sample:
    """Raises BadRow where the row is not a sample."""
    columns = row_columns(row)
    messages = _conversation(columns)
    source = _label(columns.get("source", row.stem), "source")
    return Sample(sample_id(row, columns), source, messages, [True] * len(messages), [], [])


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


def _label(value: Any, name: str) -> str:
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
