import json
import math
import re

import chat_models
import numpy as np
import pytest
import tiny_models
import torch
from bm25s.stopwords import STOPWORDS_EN
from idistill import baselines
from idistill.model_tokenizer import load_tokenizer
from idistill.preparation import prepare
from idistill.token_file import TokenFile
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

SAID = ["the capital of France is Paris", "hello world hello world", "thank you and goodbye", "a day in Paris", "print the function",
        "good night world", "Paris Paris Paris", "you are a helpful assistant"]  # fmt: skip
ASKED = ["what is the capital of France", "hello world"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("baselines")
    chat_models.save("chatml", directory / "model")
    torch.manual_seed(0)
    sizes = {**tiny_models.SIZES, "vocab_size": len(load_tokenizer(directory / "model"))}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(directory / "model")
    for name, texts in (("pool", SAID), ("target", ASKED)):
        rows = [{"id": f"{name}-{i}", "prompt": text, "completion": "yes"} for i, text in enumerate(texts)]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        prepare([directory / f"{name}.jsonl"], directory / "model", directory / f"{name}.h5", max_length=64, max_bad_lines=0, workers=1)
    return directory


def test_targets_take_turns():
    likeness = np.array([[0.9, 0.8], [0.5, 0.8], [0.9, 0.1], [0.0, 0.3]])
    assert baselines.in_turns(likeness, [2]) == [0, 1, 2, 3]  # of a tie the lower row; a row that is taken is passed over
    random = np.random.default_rng(1).normal(size=(30, 4))
    left, expected = set(range(30)), []
    for turn in range(30):
        expected.append(max(left, key=lambda row: random[row, turn % 4]))
        left.remove(expected[-1])
    assert baselines.in_turns(random, [4]) == expected


def test_tasks_take_turns_and_their_targets():
    """Of three tasks with 1, 3 and 2 targets; every target likes rows of its own."""
    turns = [0, 1, 4, 2, 5, 3]
    assert baselines.interleaved([1, 3, 2]) == turns
    likeness = np.zeros((12, 6))
    for target in range(6):
        likeness[[target, target + 6], target] = 2, 1
    assert baselines.in_turns(likeness, [1, 3, 2]) == turns + [target + 6 for target in turns]


def test_rds_plus_weighs_hidden_states_by_position(files):
    model = AutoModel.from_pretrained(files / "model", dtype=torch.float64)

    def pooled(path):
        rows = []
        with TokenFile(path) as file:
            for *_, tokens, _ in file:
                states = model(torch.from_numpy(tokens).long()[None]).last_hidden_state[0].detach().numpy()
                rows.append(sum((position + 1) * state for position, state in enumerate(states)))
        return np.array([row / np.linalg.norm(row) for row in rows])

    likeness = pooled(files / "pool.h5") @ pooled(files / "target.h5").T
    expected = [f"pool-{row}" for row in baselines.in_turns(likeness, [2])]
    assert baselines.rds_plus(files / "model", files / "pool.h5", [files / "target.h5"], at_once=3) == expected
    two = np.hstack([likeness, likeness[:, :1]])  # a second task, whose target is the first's first one
    (files / "second.jsonl").write_text((files / "target.jsonl").read_text().splitlines(keepends=True)[0])
    prepare([files / "second.jsonl"], files / "model", files / "second.h5", max_length=64, max_bad_lines=0, workers=1)
    expected = [f"pool-{row}" for row in baselines.in_turns(two, [2, 1])]
    assert baselines.rds_plus(files / "model", files / "pool.h5", [files / "target.h5", files / "second.h5"]) == expected


def test_bm25_is_its_formula(files):
    """k1 1.5, b 0.75, inverse document frequency as in Lucene."""

    def words(text):
        return [word for word in re.findall(r"(?u)\b\w\w+\b", f"{text} yes".lower()) if word not in STOPWORDS_EN]

    documents = [words(text) for text in SAID]
    mean = np.mean([len(document) for document in documents])

    def score(document, query):
        total = 0.0
        for word in query:
            frequency, count = document.count(word), sum(word in other for other in documents)
            if frequency:
                rarity = math.log(1 + (len(documents) - count + 0.5) / (count + 0.5))
                total += rarity * frequency / (frequency + 1.5 * (0.25 + 0.75 * len(document) / mean))
        return total

    likeness = np.array([[score(document, words(query)) for query in ASKED] for document in documents])
    own = baselines.likeness_of_words([f"{text} yes" for text in SAID], [f"{text} yes" for text in ASKED])
    np.testing.assert_allclose(own, likeness, rtol=1e-5, atol=1e-6)
    expected = [f"pool-{row}" for row in baselines.in_turns(own, [2])]
    assert expected[:2] == ["pool-0", "pool-1"] and baselines.bm25(files / "pool.jsonl", [files / "target.jsonl"]) == expected
