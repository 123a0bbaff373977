"""The elements of a JSON array in a file, one after the other: the array is never whole in memory."""

import json
import re
from collections.abc import Iterator
from typing import TextIO

BLOCK = 1 << 20  # characters read at once
SPACE = re.compile(r"[ \t\r\n]*")
UNFINISHED = 32  # an error so close to the end of what was read may be gone when more is


class Elements:
    """Each as it is written. Raises ValueError, whose text says which element is wrong."""

    def __init__(self, file: TextIO):
        self._file = file
        self._held = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[str]:
        number = 0
        self._skip("[", "the start of a JSON array")
        if self._next() != "]":
            while True:
                number += 1
                yield self._element(number)
                if self._next() != ",":
                    break
                self._at += 1
        self._skip("]", f"a comma or the end of the array after row {number}")
        if self._next():
            raise ValueError(f"after row {number}: something follows the end of the array; expected one array")

    def _more(self) -> bool:
        more = self._file.read(max(BLOCK, len(self._held) - self._at))
        self._held, self._at = self._held[self._at :] + more, 0
        return bool(more)

    def _next(self) -> str:
        """The next character that is no space; empty at the file's end."""
        while True:
            self._at = SPACE.match(self._held, self._at).end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def _skip(self, character: str, what: str):
        found = self._next()
        if found != character:
            raise ValueError(f"expected {what}, found {repr(found) if found else 'the end of the file'}")
        self._at += 1

    def _element(self, number: int) -> str:
        self._next()
        while True:
            problem, element, ends = None, "", False
            try:
                end = self._decoder.raw_decode(self._held, self._at)[1]
                # What follows tells that a number does not go on.
                element = self._held[self._at : end]
                ends = self._held[end : end + 1] in tuple(" \t\r\n,]") or end < len(self._held) - UNFINISHED
            except json.JSONDecodeError as error:
                problem = error.msg
                ends = not problem.startswith("Unterminated") and error.pos < len(self._held) - UNFINISHED
            except (ValueError, RecursionError) as error:
                problem, ends = str(error), True
            if ends or not self._more():
                break
        if problem:
            raise ValueError(f"row {number}: not valid JSON ({problem}); expected an element of a JSON array")
        self._at += len(element)
        return element
