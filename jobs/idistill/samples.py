"""Samples of instruction pools: conversations with what belongs to them, from rows of files in any of the forms."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from idistill.files import find_files
from idistill.formats import read_file
from idistill.forms import Fields, read_conversation, read_row_tools, read_text
from idistill.rows import Reading, Row, label, naming, sample_id


class Sample(NamedTuple):
    """A conversation as chat templates take it."""

    id: str
    source: str
    messages: list[dict[str, Any]]  # role and content, text; where a row has them tool_calls, reasoning_content, name, tool_call_id
    learnt: list[bool]  # by message: whether what an assistant says there is to carry labels
    tools: list[dict[str, Any]]  # as JSON schemas
    unused: list[str]  # columns that the form of the row does not use
    absent: list[str] = []  # columns that the user names and the row does not have
    text: str | None = None  # instead of messages: all of it is learnt, without a chat template


def parse_sample(row: Row) -> Sample:
    """Raises BadRow where the row is not a sample."""
    fields = Fields(row)
    own_id = sample_id(row, fields.columns)
    fields.take("id")
    source = row.origin.source
    if "source" in fields and not row.origin.is_named:
        source = fields.take("source")
    source = label(source, "source")
    plain = read_text(fields)
    if plain is not None:
        return Sample(own_id, source, [], [], [], fields.untaken(), fields.absent(), plain)
    turns = read_conversation(fields)
    tools = read_row_tools(fields)
    unused = fields.untaken() + sorted(turns.unused)
    return Sample(own_id, source, turns.messages, turns.learnt, tools, unused, fields.absent())


def text_of(message: dict[str, Any]) -> str:
    """What a message says: reasoning, content, calls of tools as JSON, each in a line of its own."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(own for own in (message.get("reasoning_content", ""), message["content"], *calls) if own.strip())


def read_rows(*inputs: Path, reading: Reading = Reading()) -> Iterator[Row]:
    """The rows of files, in order and streamed. Raises ValueError and OSError."""
    for file in find_files(inputs, reading):
        yield from read_file(file)


def read_samples(*inputs: Path, reading: Reading = Reading()) -> Iterator[Sample]:
    """Raises ValueError, also for a row that is no sample, and OSError."""
    for row in read_rows(*inputs, reading=reading):
        with naming(row.place):
            sample = parse_sample(row)
        yield sample
