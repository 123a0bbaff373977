"""A directory that a training framework starts from: the selected samples, tokenised or as conversations, and its configuration."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from idistill import framework_configs, repetition
from idistill.framework_configs import Sections, Setup
from idistill.framework_rows import LEFT_OUT, NoPlace, axolotl_row, sharegpt_row, trl_row
from idistill.model_tokenizer import load_tokenizer
from idistill.samples import Sample
from idistill.training_set import TrainingSample, TrainingSet
from idistill.whole_files import directory_written_whole


class Framework(NamedTuple):
    row: Callable[[Sample], dict[str, Any]]  # as a conversation
    config: Callable[[Setup], Sections]
    loss: str  # of a step
    command: str


BY_TOKENS = "a mean over the label tokens of a step: a sample counts by its weight times its label tokens"
BY_SAMPLES = "a mean over the samples of a step, of weight times mean token loss, as in the influence"
FRAMEWORKS = {
    "trl": Framework(trl_row, framework_configs.trl, BY_SAMPLES, "python train.py --config training.yaml"),
    "llama-factory": Framework(sharegpt_row, framework_configs.llama_factory, BY_TOKENS, "llamafactory-cli train training.yaml"),
    "axolotl": Framework(axolotl_row, framework_configs.axolotl, BY_TOKENS, "axolotl train training.yaml"),
    "dataflex": Framework(sharegpt_row, framework_configs.dataflex, BY_SAMPLES, "dataflex-cli train training.yaml"),
}


class Wanted(NamedTuple):
    framework: str
    data: str  # "tokens" or "chat"
    weights: str  # "column", "repeat" or "none"
    max_length: int
    seed: int
    out: Path

    def check(self):
        """Raises ValueError."""
        if self.out.exists():
            raise ValueError(f"{self.out}: exists already; expected the name of a new directory")
        if self.weights == "column" and self.framework != "trl":
            raise ValueError(f"--weights column: {self.framework} reads no weight of a sample; give --weights repeat, or --for trl")


def export(training: TrainingSet, wanted: Wanted) -> list[str]:
    """Writes the directory. Gives what there is to say. Raises ValueError and OSError."""
    samples, said = training.samples, []
    if training.without_labels:
        said.append(f"left out, without labels for this model: {training.without_labels:,} samples")
    if training.other_lengths:
        said.append(f"{training.other_lengths:,} samples have more or fewer tokens than in the run (another tokenizer, template or "
                    "--max-length): they are not what influence was computed on")  # fmt: skip
    if wanted.weights == "repeat":
        times = repetition.counts([own.example.weight for own in samples], wanted.seed)
        said.append(f"repeated by weight up to {times.max()} times; left out, drawn 0 times: {(times == 0).sum():,} samples")
        samples = [own for own, count in zip(samples, times) for _ in range(count)]
    framework, tokenizer = FRAMEWORKS[wanted.framework], load_tokenizer(training.model)
    with directory_written_whole(wanted.out) as partial:
        if wanted.data == "tokens":
            file = _write_tokens(samples, wanted, partial)
        else:
            file = _write_chat(samples, wanted, partial, said)
            if wanted.framework == "trl":
                _check_masks(samples, tokenizer, wanted.max_length)
        pad_token = None if tokenizer.pad_token else tokenizer.eos_token
        setup = Setup(training.model, wanted.max_length, file, wanted.data == "tokens", pad_token)
        remarks = [f"In this directory: {framework.command}", f"Loss: {framework.loss}."]
        _write_config(framework.config(setup), remarks, partial / "training.yaml")
        if wanted.framework == "dataflex":
            _write_config(framework_configs.DATAFLEX_COMPONENTS, ["Of training.yaml"], partial / "components.yaml")
        if wanted.framework == "trl":
            shutil.copyfile(Path(__file__).with_name("trl_train.py"), partial / "train.py")
    said.append(f"loss: {framework.loss}")
    return [f"{wanted.out}: {len(samples):,} samples for {wanted.framework}", *said, f"cd {wanted.out} && {framework.command}"]


def _write_config(sections: Sections, remarks: list[str], path: Path):
    path.write_text(framework_configs.text(sections, remarks), encoding="utf-8")


def _write_tokens(samples: list[TrainingSample], wanted: Wanted, out: Path) -> str:
    """The name of what it writes."""
    if wanted.framework == "axolotl":
        rows = ({"input_ids": own.example.tokens.tolist(), "attention_mask": [1] * len(own.example.tokens), "labels": own.labels()}
                for own in samples)  # fmt: skip
        return _write_lines(rows, out / "train.jsonl")
    import pyarrow
    import pyarrow.parquet

    def lists(values: Iterable[Any], kind: pyarrow.DataType) -> pyarrow.Array:
        return pyarrow.array(list(values), pyarrow.list_(kind))

    columns = {
        "input_ids": lists((own.example.tokens for own in samples), pyarrow.int32()),
        "labels": lists((own.labels() for own in samples), pyarrow.int32()),
    }
    if wanted.framework == "trl":
        columns = {"id": pyarrow.array([own.sample.id for own in samples]), **columns}
        if wanted.weights == "column":
            columns["weight"] = pyarrow.array([own.example.weight for own in samples])
        pyarrow.parquet.write_table(pyarrow.table(columns), out / "train.parquet")
        return "train.parquet"
    columns["attention_mask"] = lists((np.ones(len(own.example.tokens), np.int8) for own in samples), pyarrow.int8())
    _save_as_datasets(pyarrow.table(columns), out / "tokens")
    return "tokens"


def _save_as_datasets(table, directory: Path):
    """As `datasets` saves a DatasetDict of one split, but without the names of types: those of version 4 and later are not read by
    the earlier versions that LLaMA-Factory and DataFlex take.
    """
    import pyarrow

    train, file = directory / "train", "data-00000-of-00001.arrow"
    train.mkdir(parents=True)
    with pyarrow.OSFile(str(train / file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    with open(train / file, "rb") as written:
        fingerprint = hashlib.file_digest(written, "sha256").hexdigest()[:16]
    state = {"_data_files": [{"filename": file}], "_fingerprint": fingerprint, "_format_columns": None, "_format_kwargs": {},
             "_format_type": None, "_output_all_columns": False, "_split": "train"}  # fmt: skip
    (train / "state.json").write_text(json.dumps(state))
    (train / "dataset_info.json").write_text(json.dumps({"citation": "", "description": "", "homepage": "", "license": ""}))
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))


def _write_chat(samples: list[TrainingSample], wanted: Wanted, out: Path, said: list[str]) -> str:
    """The name of what it writes."""
    as_row = FRAMEWORKS[wanted.framework].row

    def row(own: TrainingSample) -> dict[str, Any]:
        try:
            if own.sample.text is not None:
                raise NoPlace("text that is no conversation")
            fields = as_row(own.sample)
        except NoPlace as missing:
            raise ValueError(f"{own.place}: {wanted.framework} has no place for {missing}; give --data tokens") from missing
        return fields | ({"weight": own.example.weight} if wanted.weights == "column" else {})

    file = _write_lines(map(row, samples), out / "train.jsonl")
    if as_row is sharegpt_row:
        (out / "dataset_info.json").write_text(json.dumps(framework_configs.dataset_info(file), indent=2))
        messages = [message for own in samples for message in own.sample.messages]
        said += [f"left out, since {wanted.framework} has no place for it: '{name}' ({count:,} messages)"
                 for name in LEFT_OUT if (count := sum(name in message for message in messages))]  # fmt: skip
    said.append(f"tokens and labels are what {wanted.framework} makes of the conversations; --data tokens has those of the influence")
    return file


def _check_masks(samples: list[TrainingSample], tokenizer, max_length: int):
    """TRL labels what the template marks: refused where that is not what influence was computed on."""
    for own in samples:
        made = tokenizer.apply_chat_template(
            own.sample.messages, tools=own.sample.tools or None, return_dict=True, return_assistant_tokens_mask=True
        )
        tokens, mask = (made[name][:max_length] for name in ("input_ids", "assistant_masks"))
        if tokens != own.example.tokens.tolist() or mask[1:] != own.example.mask[1:].tolist():
            raise ValueError(f"{own.place}: TRL would give sample '{own.sample.id}' other tokens or labels than those of the "
                             "influence: it labels what the model's template marks with {% generation %}; give --data tokens")  # fmt: skip


def _write_lines(rows: Iterable[dict[str, Any]], path: Path) -> str:
    with open(path, "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path.name
