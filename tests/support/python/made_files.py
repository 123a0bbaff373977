"""Input files of the program beside token files, made by hand."""

from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
from idistill.rating_file import RatingFileWriter

PROMPTS = ["one", "two", "three"]
RATINGS = [11, 13, 12, 17, 14]  # tokens of the ratings 1 to 5


def write_embedding(path: Path, ids: Iterable[str], rows: Iterable, **changed) -> Path:
    """`changed`: attributes."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "idistill-embedding", "version": 1, "made_by": "a test", **changed})
        file["embedding"] = np.array(list(rows), np.float32)
        file["id"] = [own.encode() for own in ids]
    return path


def write_ratings(path: Path, conversations: dict[str, list], prompts=PROMPTS, ratings=RATINGS) -> Path:
    """Conversations by id, one a prompt, or none."""
    with h5py.File(path, "w") as file:
        writer = RatingFileWriter(file, prompts, np.array(ratings, np.int32), "0" * 64)
        for own, tokens in conversations.items():
            writer.append(own, tokens)
        writer.close()
    return path
