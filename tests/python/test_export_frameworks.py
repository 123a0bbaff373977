"""What export.py --for writes for frameworks that are not installed here, against what their documentation says they read."""

import json

import commands
import datasets
import export
import pyarrow
import pytest
import yaml
from export_files import LONGEST, POOL, SELECTED, WEIGHTS, prepared_labels, save_model, write_selection
from idistill import framework_export, framework_rows, repetition
from idistill.framework_rows import NoPlace, axolotl_row, sharegpt_row, trl_row
from idistill.rows import Reading
from idistill.samples import Sample
from preparing import assistant, user

run, refused = commands.of(export)

# LLaMA-Factory: data/README.md, and the arguments of its hparams that examples/train_full uses.
LLAMA_FACTORY = {
    "model_name_or_path", "stage", "do_train", "finetuning_type", "dataset", "dataset_dir", "tokenized_path", "cutoff_len",
    "output_dir", "logging_steps", "save_strategy", "report_to", "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "num_train_epochs", "lr_scheduler_type", "warmup_ratio", "bf16",
}  # fmt: skip
DATASET_INFO = {
    "hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name", "file_name", "formatting", "ranking", "subset", "split", "folder",
    "num_samples", "columns", "tags",
}  # fmt: skip
DATASET_COLUMNS = {
    "prompt", "query", "response", "history", "messages", "system", "tools", "images", "videos", "audios", "chosen",
    "rejected", "kto_tag",
}  # fmt: skip
# DataFlex: skills/how_to_use.md.
DATAFLEX = LLAMA_FACTORY | {"train_type", "components_cfg_file", "component_name", "warmup_step", "update_step", "train_step"}
# axolotl: docs/config-reference, docs/dataset-formats/tokenized and conversation.
AXOLOTL = {
    "base_model", "special_tokens", "datasets", "dataset_prepared_path", "val_set_size", "sequence_len", "excess_length_strategy",
    "sample_packing", "micro_batch_size", "gradient_accumulation_steps", "num_epochs", "optimizer", "learning_rate", "lr_scheduler",
    "warmup_ratio", "bf16", "gradient_checkpointing", "output_dir", "logging_steps", "saves_per_epoch",
}  # fmt: skip
AXOLOTL_DATASET = {
    "path", "ds_type", "type", "chat_template", "field_messages", "field_tools", "message_property_mappings",
    "message_field_training", "message_field_training_detail", "roles_to_train", "train_on_eos", "train_on_eot", "data_files",
    "split", "name",
}  # fmt: skip
DOCUMENTED = {"llama-factory": LLAMA_FACTORY, "dataflex": DATAFLEX, "axolotl": AXOLOTL}


@pytest.fixture
def selection(tmp_path):
    """Result, pool, and what goes with every call."""
    result, pool = write_selection(tmp_path, save_model(tmp_path / "model", "llama3"))
    return [result, "--pool", pool, "--max-length", LONGEST, "--out", tmp_path / "out"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def repeated(items, seed=43):
    return [item for item, count in zip(items, repetition.counts(WEIGHTS, seed)) for _ in range(count)]


@pytest.mark.parametrize("data", ["tokens", "chat"])
@pytest.mark.parametrize("framework", DOCUMENTED)
def test_configurations_have_documented_keys_and_name_model_length_and_data(framework, data, selection, tmp_path, monkeypatch):
    run(monkeypatch, *selection, "--for", framework, "--data", data)
    config = yaml.safe_load((tmp_path / "out" / "training.yaml").read_text())
    assert config.keys() <= DOCUMENTED[framework]
    assert config["output_dir"] == "model" and config["learning_rate"] == 2e-5 and config["warmup_ratio"] == 0.03
    assert str(tmp_path / "model") == config["base_model" if framework == "axolotl" else "model_name_or_path"]
    assert LONGEST == config["sequence_len" if framework == "axolotl" else "cutoff_len"]
    if framework == "axolotl":
        [own] = config["datasets"]
        assert own.keys() <= AXOLOTL_DATASET and own["path"] == "train.jsonl" and own["ds_type"] == "json"
        assert own["type"] == (None if data == "tokens" else "chat_template")
        assert config["special_tokens"] == {"pad_token": "<|eot_id|>"}  # the tokenizer has none
    elif data == "tokens":
        assert config["tokenized_path"] == "tokens" and config["dataset"]  # without a dataset's name it does not start
    else:
        info = json.loads((tmp_path / "out" / config["dataset_dir"] / "dataset_info.json").read_text())[config["dataset"]]
        assert info.keys() <= DATASET_INFO and info["columns"].keys() <= DATASET_COLUMNS and info["formatting"] == "sharegpt"
        assert (tmp_path / "out" / info["file_name"]).exists()
    if framework == "dataflex":
        assert config["train_type"] == "dynamic_weight" and config["component_name"] == "custom"
        components = yaml.safe_load((tmp_path / "out" / config["components_cfg_file"]).read_text())
        assert components == {"weighters": {"custom": {"name": "custom", "params": {"strategy": "uniform"}}}}


@pytest.mark.parametrize("template", ["chatml", "llama3"])
@pytest.mark.parametrize("framework", DOCUMENTED)
def test_tokens_and_labels_are_those_of_the_token_file(framework, template, tmp_path, monkeypatch, capsys):
    result, pool = write_selection(tmp_path, save_model(tmp_path / "model", template))
    out = tmp_path / "out"
    run(monkeypatch, result, "--pool", pool, "--max-length", LONGEST, "--out", out, "--for", framework)
    if framework == "axolotl":
        rows = lines_of(out / "train.jsonl")
    else:
        rows = datasets.load_from_disk(out / "tokens")["train"].to_list()
    assert all(row.keys() == {"input_ids", "attention_mask", "labels"} for row in rows)
    assert all(row["attention_mask"] == [1] * len(row["input_ids"]) for row in rows)
    assert [(row["input_ids"], row["labels"]) for row in rows] == repeated(prepared_labels(tmp_path))
    counts = repetition.counts(WEIGHTS, 43)
    said = f"repeated by weight up to {counts.max()} times; left out, drawn 0 times: {sum(counts == 0)} samples"
    assert f"{out}: 6 samples for {framework}\n{said}\n" in capsys.readouterr().out


def test_saved_tokens_name_no_types_that_earlier_versions_of_datasets_do_not_know(selection, tmp_path, monkeypatch):
    run(monkeypatch, *selection, "--for", "llama-factory")
    train = tmp_path / "out" / "tokens" / "train"
    assert "features" not in json.loads((train / "dataset_info.json").read_text())
    with pyarrow.OSFile(str(train / "data-00000-of-00001.arrow")) as file:
        assert not pyarrow.ipc.open_stream(file).schema.metadata


def test_repetition_has_a_seed_and_equal_weights_none(selection, tmp_path, monkeypatch):
    for seed in (1, 2, 3):
        run(monkeypatch, *selection[:-1], tmp_path / f"out{seed}", "--for", "axolotl", "--seed", seed)
        rows = lines_of(tmp_path / f"out{seed}" / "train.jsonl")
        assert [row["input_ids"] for row in rows] == repeated([tokens for tokens, _ in prepared_labels(tmp_path)], seed)
    run(monkeypatch, *selection, "--for", "axolotl", "--weights", "none")
    once = [row["input_ids"] for row in lines_of(tmp_path / "out" / "train.jsonl")]
    assert once == [tokens for tokens, _ in prepared_labels(tmp_path)]


def test_conversations_of_any_row(selection, tmp_path, monkeypatch):
    run(monkeypatch, *selection[:-1], tmp_path / "a", "--for", "axolotl", "--data", "chat", "--weights", "none")
    run(monkeypatch, *selection[:-1], tmp_path / "l", "--for", "llama-factory", "--data", "chat", "--weights", "none")
    expected = [POOL[row].get("messages") or [user(POOL[row]["prompt"]), assistant(POOL[row]["completion"])] for row in SELECTED]
    of_axolotl = [row["messages"] for row in lines_of(tmp_path / "a" / "train.jsonl")]
    assert of_axolotl == [[m | {"train": True} if m["role"] == "assistant" else m for m in messages] for messages in expected]
    tags = {"user": "human", "assistant": "gpt"}
    assert lines_of(tmp_path / "l" / "train.jsonl") == [
        {"conversations": [{"from": tags[m["role"]], "value": m["content"]} for m in messages], "system": "", "tools": ""}
        for messages in expected
    ]


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "ö"}}}
CALLING = {**assistant(""), "reasoning_content": "I add.", "tool_calls": [CALL]}
ANSWER = {"role": "tool", "content": "4", "name": "add", "tool_call_id": "c1"}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def sample(*messages, learnt=None, tools=()):
    return Sample("x", "s", list(messages), learnt or [True] * len(messages), list(tools), [])


def test_tools_and_reasoning_in_every_form():
    full = sample(SYSTEM, user("2+2?"), CALLING, ANSWER, {**assistant("4"), "reasoning_content": "Done."}, tools=TOOLS)
    assert sharegpt_row(full) == {
        "system": "Be brief.",
        "tools": json.dumps(TOOLS),
        "conversations": [
            {"from": "human", "value": "2+2?"},
            {"from": "function_call", "value": '<think>\nI add.\n</think>\n\n[{"name": "add", "arguments": {"a": 2, "b": "ö"}}]'},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "<think>\nDone.\n</think>\n\n4"},
        ],
    }
    assert trl_row(full) == {"messages": full.messages, "tools": json.dumps(TOOLS)}
    row = axolotl_row(full)
    assert row["tools"] == json.dumps(TOOLS) and row["messages"][3] == ANSWER and row["messages"][4]["reasoning_content"] == "Done."
    called = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": "ö"}'}}
    assert row["messages"][2] == CALLING | {"tool_calls": [called], "train": True}
    assert CALLING["tool_calls"] == [CALL]  # the sample is as it was


@pytest.mark.parametrize("own,missing", [
    (sample(user("a"), assistant("b"), user("c"), assistant("d"), learnt=[True, False, True, True]), "not to be learnt"),
    (sample(user("a"), user("b"), assistant("c")), "message 2 .user. where it stands"),
    (sample(SYSTEM, assistant("b")), "message 2 .assistant. where it stands"),
    (sample(user("a"), assistant("b"), user("c")), "does not end with the assistant"),
    (sample(user("a"), SYSTEM, assistant("b")), "message 2 .system.; only the first"),
    (sample({"role": "developer", "content": "a"}, assistant("b")), "message 1 .developer."),
    (sample(user("a"), CALLING | {"content": "I call."}), "text beside the tool calls of message 2"),
], ids=["not-learnt", "two-users", "no-user", "no-answer", "late-system", "developer", "text-and-calls"])  # fmt: skip
def test_what_sharegpt_has_no_place_for(own, missing):
    with pytest.raises(NoPlace, match=missing):
        sharegpt_row(own)


@pytest.mark.parametrize("framework", ["trl", "axolotl", "llama-factory", "dataflex"])
def test_text_alone_is_no_conversation(tmp_path, monkeypatch, framework):
    rows = [{"text": f"hello {i}"} for i in range(len(POOL))]
    result, pool = write_selection(tmp_path, save_model(tmp_path / "model", "chatml"), rows=rows, reading=Reading("text"))
    weights = "column" if framework == "trl" else "none"
    own = [result, "--pool", pool, "--max-length", LONGEST, "--out", tmp_path / "out", "--for", framework, "--form", "text"]
    message = refused(monkeypatch, *own, "--data", "chat", "--weights", weights)
    assert f"{framework} has no place for text that is no conversation; give --data tokens" in message
    assert not (tmp_path / "out").exists()
    run(monkeypatch, *own, "--weights", weights)


def test_what_is_not_to_be_learnt_is_axolotl_s_train_and_refused_for_trl():
    own = sample(user("a"), assistant("b"), user("c"), assistant("d"), learnt=[True, False, True, True])
    assert [message.get("train") for message in axolotl_row(own)["messages"]] == [None, False, None, True]
    with pytest.raises(NoPlace, match="not to be learnt"):
        trl_row(own)


def test_refusals_name_the_row_and_leave_nothing(tmp_path, monkeypatch):
    rows = [{"messages": [user("a"), user("b"), assistant("c")]} if i == 4 else row for i, row in enumerate(POOL)]
    result, pool = write_selection(tmp_path, save_model(tmp_path / "model", "chatml"), rows=rows)
    own = [result, "--pool", pool, "--max-length", LONGEST, "--out", tmp_path / "out", "--for", "llama-factory"]
    message = refused(monkeypatch, *own, "--data", "chat", "--weights", "none")
    assert f"{pool}: line 5: llama-factory has no place for message 2 (user) where it stands" in message
    assert "give --data tokens" in message
    assert "pool.h5: is a token file" in refused(monkeypatch, result, "--pool", tmp_path / "pool.h5", *own[3:])
    message = refused(monkeypatch, *own, "--weights", "column")
    assert "llama-factory reads no weight of a sample; give --weights repeat, or --for trl" in message
    message = refused(monkeypatch, *own[:3], "--max-length", 20, *own[5:])
    assert "has 20 tokens, the result says" in message and "expected the --max-length of prepare.py" in message
    (tmp_path / "model").rename(tmp_path / "moved")
    assert "is no directory; expected the model of the run: give --model DIR" in refused(monkeypatch, *own)
    assert not list(tmp_path.glob("out*"))
    (tmp_path / "out").mkdir()
    assert "exists already" in refused(monkeypatch, *own, "--model", tmp_path / "moved")


def test_another_model_is_tokenised_for_and_said(selection, tmp_path, monkeypatch, capsys):
    other = save_model(tmp_path / "other", "chatml")
    run(monkeypatch, *selection, "--for", "axolotl", "--model", other, "--weights", "none")
    assert "6 samples have more or fewer tokens than in the run" in capsys.readouterr().out
    (tmp_path / "again").mkdir()
    write_selection(tmp_path / "again", other)
    rows = lines_of(tmp_path / "out" / "train.jsonl")
    assert [row["labels"] for row in rows] == [labels for _, labels in prepared_labels(tmp_path / "again")]


def test_samples_without_labels_for_the_model_are_counted(tmp_path, monkeypatch, capsys):
    model = save_model(tmp_path / "model", "chatml")
    result, pool = write_selection(tmp_path, model)
    first_labels = sorted(next(p for p, label in enumerate(labels) if label != -100) for _, labels in prepared_labels(tmp_path))
    longest = first_labels[-1]  # of which nothing is left to learn
    own = [result, "--pool", pool, "--model", model, "--out", tmp_path / "out", "--for", "axolotl"]
    run(monkeypatch, *own, "--max-length", longest)
    count = first_labels.count(longest)
    assert 0 < count < 6 and f"left out, without labels for this model: {count} samples" in capsys.readouterr().out


def test_fields_that_sharegpt_leaves_out_are_counted(tmp_path, monkeypatch):
    from idistill.training import Example
    from idistill.training_set import TrainingSample

    said: list[str] = []
    own = TrainingSample(None, sample(user("2+2?"), CALLING, ANSWER, assistant("4")), Example(None, None))
    wanted = framework_export.Wanted("dataflex", "chat", "none", LONGEST, 1, tmp_path)
    framework_export._write_chat([own, own], wanted, tmp_path, said)
    assert said[:2] == [f"left out, since dataflex has no place for it: '{name}' (2 messages)" for name in framework_rows.LEFT_OUT]


def test_options_of_training_need_a_framework(selection, monkeypatch, capsys):
    refused(monkeypatch, *selection[:3], "--out", "x.jsonl", "--weights", "repeat")
    assert "--weights: only with --for" in capsys.readouterr().err
