import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).resolve().parents[2] / "jobs"
sys.path.insert(0, str(JOBS))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Directory of a tiny model's tokenizer, by the name of its family."""
    import chat_models

    saved = {name: chat_models.save(name, tmp_path_factory.mktemp(name)) for name in chat_models.ALL}
    return saved.__getitem__
