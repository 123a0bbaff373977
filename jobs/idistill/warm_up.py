"""Warming a model up: a short AdamW run on a random part of a pool, which can be stopped and continued."""

import argparse
import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Trainer
from transformers.utils.logging import disable_progress_bar

from idistill import optimizer_conversion, optimizer_file
from idistill.training import Example, Examples, collate, has_bf16, last_checkpoint, random_part, trainer_arguments
from idistill.whole_files import written_whole

MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab.*", "merges.txt")
FREE = ("out", "micro_batch", "checkpoints")  # options that may change when a run is continued


def settings_of(options: argparse.Namespace, examples: list[Example]) -> dict:
    """What must be the same for a run to be continued."""
    drawn = hashlib.sha256()
    for example in examples:
        drawn.update(example.tokens.tobytes() + example.mask.tobytes())
    own = {name: value for name, value in vars(options).items() if name not in FREE}
    weights = {path.name: path.stat().st_size for path in sorted(options.model.glob("*.safetensors"))}
    return json.loads(json.dumps({**own, "drawn samples": drawn.hexdigest(), "weights": weights}, default=str))


def claim(work: Path, settings: dict):
    """Makes the working directory, or checks that it is this run's. Raises ValueError."""
    written = work / "settings.json"
    if written.exists():
        earlier = json.loads(written.read_text())
        differing = [name for name in settings | earlier if settings.get(name) != earlier.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(f"{work}: of a run with {name} = {earlier.get(name)!r}, now {settings.get(name)!r}; repeat its "
                             "command to continue it, or remove the directory to start over")  # fmt: skip
        return
    work.mkdir(parents=True, exist_ok=True)
    with written_whole(written) as partial:
        partial.write_text(json.dumps(settings, indent=1))


def make_trainer(options: argparse.Namespace, examples: list[Example], work: Path) -> Trainer:
    disable_progress_bar()  # of loading and saving; Trainer has its own
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    planned = max(1, -(-len(examples) // options.batch_size))
    steps = min(planned, options.max_steps or planned)
    arguments = trainer_arguments(
        options,
        work / "checkpoints",
        max_steps=steps,
        weight_decay=options.weight_decay,
        lr_scheduler_type="constant_with_warmup",  # what is left must be the rate of the steps to come
        warmup_steps=min(steps // 10, 100),
        activation_checkpointing=True,
        bf16=has_bf16(),
        save_steps=max(1, steps // options.checkpoints),
        save_total_limit=1,
        logging_steps=max(1, steps // 20),
    )
    return Trainer(model=model, args=arguments, train_dataset=Examples(examples), data_collator=collate)


def assemble(checkpoint: Path, model: Path, directory: Path):
    """Model, tokenizer and optimizer.safetensors, from the last checkpoint and the model that it began with."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for pattern in MODEL_FILES:
        for path in checkpoint.glob(pattern):
            shutil.copyfile(path, directory / path.name)
    config = json.loads((directory / "config.json").read_text())
    config["use_cache"] = json.loads((model / "config.json").read_text()).get("use_cache", True)  # off while training
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    for pattern in TOKENIZER_FILES:
        for path in model.glob(pattern):
            shutil.copyfile(path, directory / path.name)
    state = optimizer_conversion.convert(
        optimizer_conversion.load_checkpoint(checkpoint), optimizer_conversion.model_parameters(directory)
    )
    optimizer_file.write(directory / "optimizer.safetensors", state)
    for path in directory.iterdir():
        with open(path, "rb") as written:
            os.fsync(written.fileno())


def warm_up(options: argparse.Namespace):
    """Raises ValueError and OSError."""
    if options.out.exists():
        raise ValueError(f"{options.out}: exists already; expected a new name for --out")
    work = options.out.with_name(options.out.name + ".partial")
    if not (options.model / "config.json").is_file():
        raise ValueError(f"{options.model}: has no config.json; expected a Hugging Face model directory")
    examples = random_part(options.pool, options.samples, options.seed)
    claim(work, settings_of(options, examples))
    trainer = make_trainer(options, examples, work)
    checkpoint = last_checkpoint(work / "checkpoints")
    for path in (work / "checkpoints").glob("checkpoint-*"):
        if path != checkpoint:  # cut off while it was written: Trainer, which keeps one, could keep this one
            shutil.rmtree(path)
    tokens = sum(len(example.tokens) for example in examples)
    print(f"{len(examples):,} samples, {tokens:,} tokens, {trainer.args.max_steps:,} steps"
          + (f"; continues {checkpoint}" if checkpoint else ""), flush=True)  # fmt: skip
    last = work / "checkpoints" / f"checkpoint-{trainer.args.max_steps}"
    if checkpoint != last:  # Trainer would take one more step
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    assemble(last, options.model, work / "model")
    (work / "model").rename(options.out)
    shutil.rmtree(work)
    print(f"{options.out}: written, with optimizer.safetensors")
