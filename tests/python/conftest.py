import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
sys.path[:0] = [str(JOBS), str(ROOT / "tests" / "support" / "python")]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Directory of a tiny model's tokenizer, by the name of its family."""
    import chat_models

    saved = {name: chat_models.save(name, tmp_path_factory.mktemp(name)) for name in chat_models.KINDS}
    return saved.__getitem__
