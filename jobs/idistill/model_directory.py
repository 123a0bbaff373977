"""What a model directory has to be before its tokenizer can be loaded, said in the words of idistill_mpi."""

import json
import re
from pathlib import Path

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
POINTER = b"version https://git-lfs.github.com/spec/"
READ = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json")


def check_model_directory(directory: Path):
    """Raises ValueError for what is no whole model: a name of the hub, a pointer of Git LFS, an adapter."""
    if not directory.is_dir():
        hint = (f"; of huggingface.co, download it first: hf download {directory} --local-dir {directory.name}"
                if may_be_of_hub(directory) else "")  # fmt: skip
        raise ValueError(f"{directory}: not a directory; expected a Hugging Face model with its tokenizer{hint}")
    for name in READ:
        file = directory / name
        if file.is_file() and is_pointer(file):
            raise ValueError(f"{file}: is a pointer of Git LFS, not the file itself; fetch it: git -C {directory} lfs pull")
    if (directory / "adapter_config.json").is_file():
        base = _base(directory)
        tokenizer = directory if (directory / "tokenizer_config.json").is_file() else base
        raise ValueError(
            f"{directory}: an adapter of {base}; expected a whole model. Merge it into its base first: python -c \"from peft import "
            "AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; "
            f"M.from_pretrained('{directory}').merge_and_unload().save_pretrained('merged'); "
            f"T.from_pretrained('{tokenizer}').save_pretrained('merged')\", and give merged; if its weights are merged already, "
            "remove adapter_config.json from a copy"
        )


def may_be_of_hub(path: Path) -> bool:
    """ORGANISATION/NAME, where it is no path that was mistyped."""
    return bool(HUB_NAME.fullmatch(str(path))) and not path.parent.exists()


def is_pointer(file: Path) -> bool:
    with open(file, "rb") as opened:
        return opened.read(len(POINTER)) == POINTER


def _base(directory: Path) -> str:
    try:
        base = json.loads((directory / "adapter_config.json").read_text()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    return base or "BASE"
