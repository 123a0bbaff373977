"""The tokenizer of a model directory."""

from pathlib import Path

from idistill.model_directory import check_model_directory


def load_tokenizer(directory: Path):
    """Raises ValueError where the directory has no tokenizer that can serve."""
    from transformers import AutoTokenizer

    check_model_directory(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"{directory}: no tokenizer that transformers can load; expected tokenizer.json\n{error}") from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"{directory}: the tokenizer has no chat template; use an instruction-tuned model, "
            "or save a chat_template.jinja beside its tokenizer"
        )
    if not tokenizer.is_fast:
        raise ValueError(f"{directory}: the tokenizer gives no character offsets; convert it to a tokenizer.json")
    return tokenizer


def tokenizer_json(directory: Path, tokenizer) -> str:
    file = directory / "tokenizer.json"
    return file.read_text(encoding="utf-8") if file.exists() else tokenizer.backend_tokenizer.to_str()
