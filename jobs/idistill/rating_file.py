"""Rating files: conversations in which a model rates samples, that idistill_mpi reads (HDF5, "idistill-ratings", version 1).

    /tokens        int32  (total)    the tokens of all conversations, one after the other
    /offsets       int64  (N R + 1)  conversation r of sample i is tokens[offsets[i R + r] : offsets[i R + r + 1]]; all R of a
                                     sample are empty where one is longer than the model reads
    /id            UTF-8  (N)
    /prompt        UTF-8  (R)        the rating prompts
    /rating_token  int32  (K)        tokens of the ratings 1 to K, one of which the model would write next

Root attributes: format, version, tokenizer_sha256, content_sha256 (of tokens, offsets, ids and rating tokens).
"""

import hashlib
from pathlib import Path

import h5py
import numpy as np

FORMAT, VERSION = "idistill-ratings", 1
CHUNK = 16_384  # elements per HDF5 chunk
FLUSH_SAMPLES = 256


class RatingFileWriter:
    """Into an open HDF5 file; complete after close()."""

    def __init__(self, file: h5py.File, prompts: list[str], rating_tokens: np.ndarray, tokenizer_hash: str):
        self._file = file
        file.attrs.update({"format": FORMAT, "version": VERSION, "tokenizer_sha256": tokenizer_hash})
        file["prompt"] = np.array(prompts, h5py.string_dtype())
        file["rating_token"] = rating_tokens
        for name, dtype in (("tokens", np.int32), ("offsets", np.int64), ("id", h5py.string_dtype())):
            file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(CHUNK,))
        self._prompts = len(prompts)
        self._end = 0
        self._pending = {"tokens": [], "offsets": [0], "id": []}
        self._hashes = {name: hashlib.sha256() for name in self._pending}

    def append(self, sample_id: str, conversations: list[np.ndarray]):
        """One a prompt, or none at all."""
        for tokens in conversations or [np.zeros(0, np.int32)] * self._prompts:
            self._end += len(tokens)
            self._pending["tokens"].append(tokens)
            self._pending["offsets"].append(self._end)
        self._pending["id"].append(sample_id)
        if len(self._pending["id"]) == FLUSH_SAMPLES:
            self._flush()

    def _flush(self):
        for name, values in self._pending.items():
            if not values:
                continue
            if name == "id":
                content = "".join(own + "\0" for own in values).encode()
            else:
                values = np.concatenate(values) if name == "tokens" else np.array(values, np.int64)
                content = values.astype("<i4" if name == "tokens" else "<i8", copy=False).tobytes()
            self._hashes[name].update(content)
            dataset = self._file[name]
            start = len(dataset)
            dataset.resize((start + len(values),))
            dataset[start:] = values
            self._pending[name] = []

    def close(self):
        self._flush()
        ratings = self._file["rating_token"][:].astype("<i4").tobytes()
        parts = [*(own.digest() for own in self._hashes.values()), ratings]
        self._file.attrs["content_sha256"] = hashlib.sha256(b"".join(parts)).hexdigest()
