"""Names of what a job keeps, so that it is computed again when what it came from is another."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def digest(settings, read: Iterable[Path]) -> str:
    """Eight bytes, in hex, of the settings (as JSON) and of path, size and time of the files read; of a directory, such as a model,
    of those in it. Raises OSError."""
    every = [own for path in read for own in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in every]
    return hashlib.sha256(json.dumps([settings, files], sort_keys=True, default=str).encode()).hexdigest()[:16]
