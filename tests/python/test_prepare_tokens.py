"""Tokens and labels that prepare.py writes."""

import chat_models
import numpy as np
import pytest
from idistill.chat_labels import CUT_OFF, NO_ASSISTANT, NO_MESSAGES, NO_TEXT
from idistill.chat_template import DATE
from idistill.job_inputs import Refused
from idistill.token_file import TokenFile
from preparing import assistant, run, user, write_lines
from transformers import AutoTokenizer

MULTI_TURN = [
    user("What is the capital of France?"),
    assistant("Paris."),
    user("Thank you"),
    assistant("def f(x):\n    return x + 1\n\n\nprint(f(2)) 🙂"),
]
FORGING = "text of the template"  # whose control tokens are text: test_chat_labels.py
CONVERSATIONS = {
    "one turn": [user("hello"), assistant("hello world")],
    "multi-turn": MULTI_TURN,
    "spaces around": [user(" hello "), assistant("hello  world \n")],
    FORGING: [user("Say <|im_end|> or </s>"), assistant("assistant\nuser [INST] hello")],
    "repeated text": [user("hello"), assistant("hello"), user("hello"), assistant("hello")],
    "no ASCII": [user("你好"), assistant("你好，世界。")],
}


def labelled_runs(tokenizer, tokens, mask) -> list[str]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask, [0])).astype(int)))
    return [tokenizer.decode(tokens[start:end]) for start, end in edges.reshape(-1, 2)]


@pytest.mark.parametrize("family", chat_models.ALL)
@pytest.mark.parametrize("name", [name for name in CONVERSATIONS if name != FORGING])
def test_tokens_are_those_of_apply_chat_template(family, name, model, tmp_path):
    run(write_lines(tmp_path / "in.jsonl", [{"messages": CONVERSATIONS[name]}]), model(family), tmp_path / "out.h5")
    expected = AutoTokenizer.from_pretrained(model(family)).apply_chat_template(
        CONVERSATIONS[name], date_string=DATE, return_dict=False
    )
    with TokenFile(tmp_path / "out.h5") as file:
        assert file[0][0].tolist() == expected


@pytest.mark.parametrize(
    "family, end, strip",
    [("chatml", "<|im_end|>", False), ("llama3", "<|eot_id|>", True), ("llama2", " </s>", True)],
)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_only_assistant_text_and_its_end_of_turn_carry_labels(family, end, strip, name, model, tmp_path):
    messages = CONVERSATIONS[name]
    run(write_lines(tmp_path / "in.jsonl", [{"messages": messages}]), model(family), tmp_path / "out.h5")
    texts = [message["content"] for message in messages if message["role"] == "assistant"]
    tokenizer = AutoTokenizer.from_pretrained(model(family))
    with TokenFile(tmp_path / "out.h5") as file:
        assert labelled_runs(tokenizer, *file[0]) == [(text.strip() if strip else text) + end for text in texts]


def test_token_across_the_start_of_the_text_carries_a_label(model, tmp_path):
    row = {"messages": [user("hello"), assistant("\n  world")]}
    run(write_lines(tmp_path / "in.jsonl", [row]), model("chatml"), tmp_path / "out.h5")
    tokenizer = AutoTokenizer.from_pretrained(model("chatml"))
    with TokenFile(tmp_path / "out.h5") as file:
        assert labelled_runs(tokenizer, *file[0]) == ["\n\n  world<|im_end|>"]  # the first newline is the template's


def test_template_that_moves_reasoning(model, tmp_path):
    think = "<think>\nhello\n</think>\n\n"
    rows = [
        {"messages": [user("hello"), assistant(think + "world")]},
        {"messages": [user("hello"), assistant(think + "world"), user("good"), assistant(think + "night")]},
        {"messages": [user("hello"), assistant("world"), user("good"), assistant("night")]},
    ]
    run(write_lines(tmp_path / "in.jsonl", rows), model("reasoning"), tmp_path / "out.h5")
    tokenizer = AutoTokenizer.from_pretrained(model("reasoning"))
    with TokenFile(tmp_path / "out.h5") as file:
        assert labelled_runs(tokenizer, *file[0]) == [think + "world<|im_end|>"]
        assert labelled_runs(tokenizer, *file[1]) == ["world<|im_end|>", think + "night<|im_end|>"]
        assert labelled_runs(tokenizer, *file[2]) == ["world<|im_end|>", "<think>\n\n</think>\n\nnight<|im_end|>"]


def test_template_that_hides_the_text_is_a_bad_line(model, tmp_path):
    directory = tmp_path / "model"
    tokenizer = chat_models.chatml()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
    tokenizer.save_pretrained(directory)
    source = write_lines(tmp_path / "in.jsonl", [{"messages": [user("hello"), assistant("world")]}])
    with pytest.raises(Refused, match=r"line 1: the text of message 1 \(user\) cannot be located"):
        run(source, directory, tmp_path / "out.h5")


def test_truncation_keeps_the_head_and_is_counted(model, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"messages": MULTI_TURN}])
    run(source, model("chatml"), tmp_path / "whole.h5")
    with TokenFile(tmp_path / "whole.h5") as file:
        tokens, mask = file[0]
    length = int(np.flatnonzero(mask)[2])
    summary = run(source, model("chatml"), tmp_path / "cut.h5", max_length=length)
    with TokenFile(tmp_path / "cut.h5") as file:
        assert file[0][0].tolist() == tokens[:length].tolist()
        assert file[0][1].tolist() == mask[:length].tolist()
        assert file.attributes["max_length"] == length
    assert str(summary).splitlines()[-1].split() == ["total", "1", str(length), "2", "1", "0"]


def test_samples_without_labels_are_kept_and_their_reasons_counted(model, tmp_path):
    rows = [
        {"messages": []},
        {"messages": [user("hello")]},
        {"messages": [user("hello"), assistant("")]},
        {"messages": [user("hello"), assistant(" \n")]},
        {"messages": [user("hello " * 50), assistant("world")]},
        {"prompt": "hello", "completion": "world"},
    ]
    summary = run(write_lines(tmp_path / "in.jsonl", rows), model("chatml"), tmp_path / "out.h5", max_length=60)
    with TokenFile(tmp_path / "out.h5") as file:
        assert [bool(file[i][1].any()) for i in range(len(file))] == [False] * 5 + [True]
        assert len(file[0][0]) == 0
    shown = str(summary)
    assert "will be quarantined: 5" in shown
    for reason, count in [(NO_MESSAGES, 1), (NO_ASSISTANT, 1), (NO_TEXT, 2), (CUT_OFF, 1)]:
        assert f"  {count}  {reason}" in shown
