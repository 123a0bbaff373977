"""Names of what a job keeps, so that it is computed again when what it came from is another."""

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def digest(settings, read: Iterable[Path]) -> str:
    """Eight bytes, in hex, of the settings (as JSON) and of name and content of the files read; of a directory, such as a model, of
    those in it, not below. Where a file lies and when it was written do not matter: a copy of everything is the same. Raises OSError."""
    paths = sorted(set(read), key=lambda path: (-len(str(path)), path))
    text = json.dumps(settings, sort_keys=True, default=str)
    for path in paths:  # the longest first: none is replaced within another
        text = text.replace(json.dumps(str(path))[1:-1], path.name)
    every = [(path.name, own) for path in paths
             for own in (sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path])]  # fmt: skip
    files = sorted((of, own.name, _content(own, own.stat().st_size, own.stat().st_mtime_ns)) for of, own in every)
    return hashlib.sha256(json.dumps([text, files]).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=None)
def _content(path: Path, _size: int, _time: int) -> str:
    """Read again only when size or time are others."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
