"""Writing files so that nothing half-written ever has the name that was asked for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives `path` + ".partial" to write, which becomes `path` when the `with` block ends, and goes where it fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def directory_written_whole(path: Path) -> Iterator[Path]:
    """The same of a directory; one that a killed run left half-written is replaced."""
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
