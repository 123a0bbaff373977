"""Configurations of training frameworks, in their own keys, by section. Paths are relative to the directory that holds them."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

LEARNING_RATE = 2e-5
EPOCHS = 2.0
BATCH_SIZE = 16  # samples of a step, on one GPU
WARM_UP = 0.03  # part of the steps
LOGGED_EVERY = 10  # steps

Sections = dict[str, dict[str, Any]]


class Setup(NamedTuple):
    model: Path
    max_length: int  # tokens of a sample
    data: str  # file or directory
    tokens: bool  # whether it holds tokens and labels; otherwise conversations
    pad_token: str | None  # to pad with, where the tokenizer has none of its own


def trl(setup: Setup) -> Sections:
    """Of SFTConfig, ModelConfig and ScriptArguments."""
    labels = {} if setup.tokens else {"assistant_only_loss": True}
    return {
        "model": {"model_name_or_path": str(setup.model)},
        "data": {"dataset_name": setup.data, "max_length": setup.max_length, **labels},
        "training": {
            "learning_rate": LEARNING_RATE,
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": BATCH_SIZE,
            "lr_scheduler_type": "cosine",
            "warmup_steps": WARM_UP,
        },
        "output": {"output_dir": "model", "logging_steps": LOGGED_EVERY, "save_strategy": "epoch", "report_to": "none"},
    }


def llama_factory(setup: Setup) -> Sections:
    """With `tokens` the dataset's name is not read, but must be there."""
    data = {"tokenized_path": setup.data} if setup.tokens else {"dataset_dir": "."}
    return {
        "model": {"model_name_or_path": str(setup.model)},
        "method": {"stage": "sft", "do_train": True, "finetuning_type": "full"},
        "dataset": {"dataset": "selected", **data, "cutoff_len": setup.max_length},
        "output": {"output_dir": "model", "logging_steps": LOGGED_EVERY, "save_strategy": "epoch", "report_to": "none"},
        "train": {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "num_train_epochs": EPOCHS,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": WARM_UP,
            "bf16": True,
        },
    }


def dataset_info(file: str) -> dict[str, Any]:
    """LLaMA-Factory's description of its ShareGPT form."""
    columns = {"messages": "conversations", "system": "system", "tools": "tools"}
    return {"selected": {"file_name": file, "formatting": "sharegpt", "columns": columns}}


def dataflex(setup: Setup) -> Sections:
    """LLaMA-Factory's, with the weighter that weighs all samples alike: its loss is a mean over samples."""
    own = {"train_type": "dynamic_weight", "components_cfg_file": "components.yaml", "component_name": "custom", "warmup_step": 0}
    return {**llama_factory(setup), "dataflex": own}


DATAFLEX_COMPONENTS: Sections = {"weighters": {"weighters": {"custom": {"name": "custom", "params": {"strategy": "uniform"}}}}}


def axolotl(setup: Setup) -> Sections:
    padding = {"special_tokens": {"pad_token": setup.pad_token}} if setup.pad_token else {}
    if setup.tokens:
        form = {"type": None}  # tokenised already
    else:
        form = {
            "type": "chat_template",
            "chat_template": "tokenizer_default",
            "field_messages": "messages",
            "message_field_training": "train",
            "roles_to_train": ["assistant"],
            "train_on_eos": "turn",
        }
    return {
        "model": {"base_model": str(setup.model), **padding},
        "data": {
            "datasets": [{"path": setup.data, "ds_type": "json", **form}],
            "dataset_prepared_path": "prepared",
            "val_set_size": 0.0,
            "sequence_len": setup.max_length,
            "excess_length_strategy": "truncate",
            "sample_packing": False,
        },
        "training": {
            "micro_batch_size": 1,
            "gradient_accumulation_steps": BATCH_SIZE,
            "num_epochs": EPOCHS,
            "optimizer": "adamw_torch",
            "learning_rate": LEARNING_RATE,
            "lr_scheduler": "cosine",
            "warmup_ratio": WARM_UP,
            "bf16": "auto",
            "gradient_checkpointing": True,
        },
        "output": {"output_dir": "model", "logging_steps": LOGGED_EVERY, "saves_per_epoch": 1},
    }


def text(sections: Sections, remarks: list[str]) -> str:
    parts = [f"# {name}\n{yaml.safe_dump(own, sort_keys=False, allow_unicode=True)}" for name, own in sections.items()]
    return "\n".join(["".join(f"# {remark}\n" for remark in remarks), *parts])
