"""What the tests of export.py --for share: a model, a pool of conversations, and a result that says which were selected."""

import json
from pathlib import Path

import chat_models
import h5py
import tiny_models
import torch
from idistill.model_tokenizer import load_tokenizer
from idistill.preparation import prepare
from idistill.rows import Reading
from idistill.token_file import TokenFile
from preparing import assistant, user, write_lines
from result_files import write_result
from transformers import AutoModelForCausalLM, LlamaConfig

POOL = [
    {"messages": [user(f"hello {i}"), assistant("France is Paris. " * (1 + i % 3)), user("good"), assistant(f"bye {i}")]}
    if i % 2 else {"prompt": f"What is the capital? {i} " * (1 + i // 9), "completion": "Paris " * (1 + i % 4)} for i in range(12)
]  # fmt: skip
SELECTED = [7, 2, 11, 4, 9, 0]  # in order of selection
WEIGHTS = [2.25, 1.5, 1.0, 0.75, 0.3, 0.2]  # mean 1
NORMS = [1.0, 2.0, 4.0] * 4
LONGEST = 96


def save_model(directory: Path, template: str, generation: str | None = None) -> Path:
    """A tiny Llama with the tokenizer of a family; `generation`: another chat template."""
    chat_models.save(template, directory)
    tokenizer = load_tokenizer(directory)
    if generation:
        tokenizer.chat_template = generation
        tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    sizes = {**tiny_models.SIZES, "vocab_size": len(tokenizer)}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(directory)
    return directory


def write_selection(directory: Path, model: Path, selected=SELECTED, weights=WEIGHTS, rows=POOL, reading=Reading()) -> tuple[Path, Path]:
    """The result and the pool that it was selected from, prepared in pool.h5."""
    pool = write_lines(directory / "pool.jsonl", rows)
    prepare([pool], model, directory / "pool.h5", max_length=LONGEST, max_bad_lines=0, workers=1, reading=reading)
    with TokenFile(directory / "pool.h5") as tokens:
        ids, lengths = tokens.ids, [len(tokens[row][0]) for row in range(len(tokens))]
    count = len(selected)
    result = write_result(
        directory / "weights.h5", ids=ids, sources=["s"] * len(ids), scores=[[0.5]] * len(ids), tasks=["t"], columns=["t"],
        column_task=[0], selected=selected, selected_columns=[0] * count, weights=weights, norms=NORMS[: len(ids)], tokens=lengths,
    )  # fmt: skip
    with h5py.File(result, "a") as file:
        file.attrs["settings"] = json.dumps(json.loads(file.attrs["settings"]) | {"model": str(model)})
    return result, pool


def prepared_labels(directory: Path, selected=SELECTED) -> list[tuple[list[int], list[int]]]:
    """Tokens and labels of pool.h5, -100 where there is none."""
    with TokenFile(directory / "pool.h5") as file:
        rows = [file[row] for row in selected]
    return [(tokens.tolist(), [t if m else -100 for t, m in zip(tokens.tolist(), mask)]) for tokens, mask in rows]
