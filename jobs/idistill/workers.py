"""Processes of a pool that end with their parent."""

import ctypes
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor

from idistill.rows import Row

CHUNK = 128  # rows per task of a worker at most
CHUNK_CHARACTERS = 1 << 20  # that they have at most, but for the last row

PR_SET_PDEATHSIG = 1


def start_worker(parent: int):
    """First thing in a worker; `parent`: the process that asked for it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no worker outlives a killed parent
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_order(
    rows: Iterable[Row], encode: Callable[[list[Row]], list], executor: Executor, chunks_in_flight: int
) -> Iterator:
    """What `encode` makes of every row in the executor's workers, in the order of the rows."""
    running = deque()
    for chunk in _chunks(rows):
        running.append(executor.submit(encode, chunk))
        if len(running) == chunks_in_flight:
            yield from running.popleft().result()
    while running:
        yield from running.popleft().result()


def _characters(value) -> int:
    """Of a row, about."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 1


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk, characters = [], 0
    for row in rows:
        chunk.append(row)
        characters += _characters(row.content)
        if len(chunk) == CHUNK or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
