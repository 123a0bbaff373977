"""What the tests of prepare.py share: rows of conversations, and running it."""

import hashlib
import json
import re
from pathlib import Path

from idistill.preparation import Summary, prepare
from idistill.rows import Reading


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


HELLO = {"prompt": "hello", "completion": "world"}
FORMS = [
    {"id": "a", "source": "s", "messages": [user("hello"), assistant("world")]},
    {"id": 7, "prompt": "hello", "completion": "world"},
    {"instruction": "hello", "input": "", "output": "world"},
    {"instruction": "hello", "output": "world", "source": "s"},
    {"instruction": "hello", "input": "good night", "output": "world"},
]


def write_lines(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run(inputs, model, out, max_length=2048, max_bad_lines=0, workers=2, reading=Reading()) -> Summary:
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return prepare(inputs, model, out, max_length, max_bad_lines, workers, reading)


def default_id(stem: str, number: int, line: str) -> str:
    return f"{stem}-{number}-{hashlib.blake2b(line.encode(), digest_size=4).hexdigest()}"


def without_digests(ids: list[str]) -> list[str]:
    return [re.sub(r"-[0-9a-f]{8}$", "", own_id) for own_id in ids]
