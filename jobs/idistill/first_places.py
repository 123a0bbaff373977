"""Where keys are met first among so many that the keys themselves cannot be kept."""

import hashlib
from array import array
from pathlib import Path

from idistill.rows import Place


class FirstPlaces:
    """Where every key, an id or a content, was used first, in 24 bytes a row and without the keys.

    An open hash table of 16-byte digests, a third of it free: half of a digest says where the search for its slot
    starts, the other half is what the slot holds. Among a billion keys, two are taken for one with a probability below
    1e-9.
    """

    def __init__(self, rows: int):
        """For at most so many keys."""
        self._left = rows
        self._slots = rows * 3 // 2 + 1  # never full: every search ends
        self._kept = array("Q", [0]) * self._slots
        self._numbers = array("Q", [0]) * self._slots  # file number and row number; 0: free
        self._files: dict[tuple[Path, str], int] = {}

    def take(self, key: bytes, place: Place) -> Place | None:
        """The earlier place of this key; None where there is none, and from now on it is this one."""
        digest = hashlib.blake2b(key, digest_size=16).digest()
        slot = int.from_bytes(digest[:8], "little") % self._slots
        kept = int.from_bytes(digest[8:], "little")
        while number := self._numbers[slot]:
            if self._kept[slot] == kept:
                return self._place(number)
            slot = (slot + 1) % self._slots
        if not self._left:
            raise ValueError(f"{place.path}: grew while it was read; run this again when it is complete")
        self._left -= 1
        self._kept[slot] = kept
        self._numbers[slot] = self._files.setdefault((place.path, place.unit), len(self._files)) << 40 | place.number
        return None

    def _place(self, number: int) -> Place:
        path, unit = list(self._files)[number >> 40]
        return Place(path, unit, number & (1 << 40) - 1)
