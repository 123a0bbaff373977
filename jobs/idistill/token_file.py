"""Token files: the tokenised samples that idistill_mpi reads (HDF5, format "idistill-tokens", version 1).

    /tokens      int32  (total)  the tokens of all samples, one after the other
    /label_mask  uint8  (total)  1 where the loss of predicting this token counts
    /offsets     int64  (N+1)    sample i is tokens[offsets[i]:offsets[i+1]]
    /id /source  UTF-8  (N)

and where the samples can stand in one conversation with others

    /joint/first    int32  (N)    the token of sample i where its turns begin, which may follow another conversation; -1: it cannot
    /joint/kept     int32  (N)    tokens of sample i with which it begins where another one follows
    /joint/tail     int32  (t)    and the tokens behind these, of all samples
    /joint/offsets  int64  (N+1)  those of sample i are tail[offsets[i]:offsets[i+1]]

Root attributes: format, version, tokenizer_sha256, max_length, content_sha256; with /joint joint_sha256.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

FORMAT = "idistill-tokens"
VERSION = 1
HASH_BLOCK = 65_536  # samples per block of content_sha256
CHUNK = 16_384  # elements per HDF5 chunk
FLUSH_TOKENS = 1 << 20


class Joint(NamedTuple):
    """A sample in one conversation with another."""

    first: int  # the token where its turns begin, which may follow another conversation; -1: it cannot
    kept: int  # its tokens with which it begins where another one follows
    tail: np.ndarray  # int32, those behind them

    def whole(self, tokens: np.ndarray) -> np.ndarray:
        """Where another one follows; `tokens`: of the sample alone."""
        return np.concatenate((tokens[: self.kept], self.tail))


UNJOINED = Joint(-1, 0, np.zeros(0, np.int32))


def tokenizer_sha256(tokenizer_json: str) -> str:
    """Fingerprint of what a tokenizer maps, from the text of its tokenizer.json, whatever its layout.

    sha256 over UTF-8 lines, each ended by a newline, of three parts in this order:
    `token NUL id` for the vocabulary and the added tokens together, sorted by the token's bytes;
    `left NUL right` for every merge, in order of rank;
    `token` for every special token, sorted by its bytes.
    """
    tokenizer = json.loads(tokenizer_json)
    vocabulary = tokenizer["model"].get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: [token, log probability] in order of id
        vocabulary = {entry[0]: token_id for token_id, entry in enumerate(vocabulary)}
    added = tokenizer.get("added_tokens") or []
    pairs = {**vocabulary, **{token["content"]: token["id"] for token in added}}
    merges = [
        merge.split(" ", 1) if isinstance(merge, str) else merge
        for merge in tokenizer["model"].get("merges") or []
    ]
    specials = {token["content"] for token in added if token["special"]}

    digest = hashlib.sha256()
    for token in sorted(pairs, key=str.encode):
        digest.update(f"{token}\0{pairs[token]}\n".encode())
    for left, right in merges:
        digest.update(f"{left}\0{right}\n".encode())
    for token in sorted(specials, key=str.encode):
        digest.update(f"{token}\n".encode())
    return digest.hexdigest()


def is_labelled(label_mask: np.ndarray) -> bool:
    """Whether anything is learnt from a sample: nothing predicts the first token."""
    return bool(label_mask[1:].any())


class _BlockHash:
    """The hex sha256 of the concatenated digests of blocks of 65,536 consecutive samples.

    A block has parts before its offsets and parts behind them, each of all its samples together. The offsets have both ends, as
    little-endian int64.
    """

    def __init__(self):
        self._total = hashlib.sha256()
        self._position = 0
        self._start_block()

    def _start_block(self):
        self._block = hashlib.sha256()
        self._before, self._offsets, self._behind = [], [self._position], []

    def _append(self, before: tuple[bytes, ...], length: int, behind: tuple[bytes, ...]):
        """A sample's bytes in every part, and how far the offsets go on."""
        self._before.append(before)
        self._position += length
        self._offsets.append(self._position)
        self._behind.append(behind)
        if len(self._before) == HASH_BLOCK:
            self._end_block()

    def _end_block(self):
        offsets = np.asarray(self._offsets, "<i8").tobytes()
        for part in chain(*zip(*self._before), [offsets], *zip(*self._behind)):
            self._block.update(part)
        self._total.update(self._block.digest())
        self._start_block()

    def hexdigest(self) -> str:
        """Ends the hash: nothing may be appended afterwards."""
        if self._before:
            self._end_block()
        return self._total.hexdigest()


class ContentHash(_BlockHash):
    """content_sha256 of a token file, from its samples in order.

    Parts: tokens (little-endian int32) and label masks (uint8), then ids and sources, each in UTF-8 and ended by a zero byte.
    """

    def append(self, sample_id: str, source: str, tokens: np.ndarray, label_mask: np.ndarray):
        self._block.update(tokens.astype("<i4", copy=False).tobytes())  # the first part, which need not be kept
        self._append((label_mask.tobytes(),), len(tokens), (sample_id.encode() + b"\0", source.encode() + b"\0"))


class JointHash(_BlockHash):
    """joint_sha256 of a token file, from its samples in order.

    Parts: `first` and `kept`, then `tail`, all little-endian int32.
    """

    def append(self, joint: Joint):
        first, kept = (np.asarray(own, "<i4").tobytes() for own in (joint.first, joint.kept))
        self._append((first, kept), len(joint.tail), (joint.tail.astype("<i4", copy=False).tobytes(),))


class TokenFileWriter:
    """Writes samples to `path` + ".partial" and renames it to `path` when the `with` block ends without an error."""

    def __init__(self, path: Path, tokenizer_hash: str, max_length: int, joints: bool = False):
        """`joints`: every sample is appended with what it is in one conversation with another."""
        self._path = Path(path)
        self._partial = self._path.with_name(self._path.name + ".partial")
        self._file = h5py.File(self._partial, "w")
        self._file.attrs["format"] = FORMAT
        self._file.attrs["version"] = VERSION
        self._file.attrs["tokenizer_sha256"] = tokenizer_hash
        self._file.attrs["max_length"] = max_length
        self._pending = {}
        for name, dtype in [
            ("tokens", "<i4"),
            ("label_mask", "u1"),
            ("offsets", "<i8"),
            ("id", h5py.string_dtype()),
            ("source", h5py.string_dtype()),
            *([("joint/first", "<i4"), ("joint/kept", "<i4"), ("joint/tail", "<i4"), ("joint/offsets", "<i8")] if joints else []),
        ]:
            self._file.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(CHUNK,), dtype=dtype)
            self._pending[name] = [0] if name.endswith("offsets") else []
        self._hash = ContentHash()
        self._joint_hash = JointHash() if joints else None
        self._position = self._tail_position = 0
        self._pending_tokens = 0

    def append(self, sample_id: str, source: str, tokens: np.ndarray, label_mask: np.ndarray, joint: Joint = UNJOINED):
        """tokens int32 and label_mask uint8, of equal length."""
        self._hash.append(sample_id, source, tokens, label_mask)
        if self._joint_hash:
            self._append_joint(joint)
        self._position += len(tokens)
        self._pending["tokens"].append(tokens)
        self._pending["label_mask"].append(label_mask)
        self._pending["offsets"].append(self._position)
        self._pending["id"].append(sample_id)
        self._pending["source"].append(source)
        self._pending_tokens += len(tokens)
        if self._pending_tokens >= FLUSH_TOKENS or len(self._pending["id"]) >= CHUNK:
            self._flush()

    def _append_joint(self, joint: Joint):
        self._joint_hash.append(joint)
        self._tail_position += len(joint.tail)
        self._pending["joint/first"].append(joint.first)
        self._pending["joint/kept"].append(joint.kept)
        self._pending["joint/tail"].append(joint.tail)
        self._pending["joint/offsets"].append(self._tail_position)
        self._pending_tokens += len(joint.tail)

    def _flush(self):
        for name, values in self._pending.items():
            if not values:
                continue
            rows = np.concatenate(values) if name in ("tokens", "label_mask", "joint/tail") else values
            dataset = self._file[name]
            start = len(dataset)
            dataset.resize((start + len(rows),))
            dataset[start:] = rows
            values.clear()
        self._pending_tokens = 0

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        if error_type is not None:
            self._discard()
            return
        try:
            self._flush()
            self._file.attrs["content_sha256"] = self._hash.hexdigest()
            if self._joint_hash:
                self._file.attrs["joint_sha256"] = self._joint_hash.hexdigest()
            self._file.close()
            with open(self._partial, "rb") as written:
                os.fsync(written.fileno())
            self._partial.rename(self._path)
        except BaseException:
            self._discard()
            raise

    def _discard(self):
        try:
            self._file.close()
        finally:
            self._partial.unlink(missing_ok=True)


class TokenFile:
    """Read access to a token file."""

    def __init__(self, path: Path):
        self._file = h5py.File(path, "r")
        if self._file.attrs.get("format") != FORMAT or self._file.attrs.get("version") != VERSION:
            raise ValueError(f"{path}: not a token file of version {VERSION}; write one with jobs/prepare.py")
        self.attributes = dict(self._file.attrs)
        self.offsets = self._file["offsets"][:]
        self.ids = self._file["id"].asstr()[:].tolist()
        self.sources = self._file["source"].asstr()[:].tolist()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and label mask of one sample."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        span = slice(self.offsets[index], self.offsets[index + 1])
        return self._file["tokens"][span], self._file["label_mask"][span]

    def joint(self, index: int) -> Joint:
        """Raises KeyError where the file does not say how its samples stand in one conversation with others."""
        joint = self._file["joint"]
        first, last = joint["offsets"][index : index + 2].tolist()
        return Joint(int(joint["first"][index]), int(joint["kept"][index]), joint["tail"][first:last])

    def __iter__(self) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
        """Id, source, tokens and label mask of every sample, a thousand in memory."""
        for start in range(0, len(self), 1024):
            offsets = self.offsets[start : start + 1025]
            tokens = self._file["tokens"][offsets[0] : offsets[-1]]
            label_mask = self._file["label_mask"][offsets[0] : offsets[-1]]
            for index, (first, last) in enumerate(pairwise(offsets - offsets[0]), start):
                yield self.ids[index], self.sources[index], tokens[first:last], label_mask[first:last]

    def content_sha256(self) -> str:
        """The hash of what the file holds, to compare with the attribute of the same name."""
        content = ContentHash()
        for sample in self:
            content.append(*sample)
        return content.hexdigest()

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
