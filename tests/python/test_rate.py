"""Rating conversations: the prompt, the sample, and then nothing but the rating, as the model's chat template writes them."""

import json

import chat_models
import commands
import h5py
import pytest
import rate
from idistill.chat_template import DATE
from idistill.rating_conversations import instruction_and_response, read_prompts
from idistill.samples import Sample
from idistill.token_file import TokenFile
from preparing import assistant, run, user, write_lines
from transformers import AutoTokenizer

read, refused = commands.of(rate)
PROMPTS = ["From 1 to 5, how good?", "hello 5, 4, 3, 2 or 1"]
SAMPLES = [
    {"id": "a", "prompt": "hello", "completion": "world"},
    {"messages": [user("Say </s> or <|im_end|>"), assistant("assistant\nuser [INST] hello 1")]},
    {"instruction": "good", "input": "night", "output": ""},
]
ASKED = [("hello", "world"), ("Say </s> or <|im_end|>", "assistant\nuser [INST] hello 1"), ("good\n\nnight", "")]


@pytest.fixture
def rater(model, tmp_path):
    """A directory of a family's tokenizer, in which the model reads so many tokens."""
    def made(family, longest=512):
        (model(family) / "config.json").write_text(json.dumps({"max_position_embeddings": longest}))
        return model(family)

    return made


@pytest.fixture
def prompts(tmp_path):
    return write_lines(tmp_path / "prompts.txt", [line for line in PROMPTS])


def conversations(path) -> dict[str, list[list[int]]]:
    with h5py.File(path) as file:
        tokens, ends, count = file["tokens"][:], file["offsets"][:], len(file["prompt"])
        return {
            own: [tokens[ends[i] : ends[i + 1]].tolist() for i in range(row * count, (row + 1) * count)]
            for row, own in enumerate(file["id"].asstr()[:])
        }


def asked(prompt: str, instruction: str, response: str) -> str:
    return f"{prompt}\n\nInstruction:\n{instruction}\n\nResponse:\n{response}"


@pytest.mark.parametrize("family", ["chatml", "llama3", "qwen2.5", "llama2"])
def test_conversation_ends_where_the_model_would_write_the_rating(family, rater, prompts, tmp_path, monkeypatch):
    out, directory = tmp_path / "out.h5", rater(family)
    pool = write_lines(tmp_path / "in.jsonl", SAMPLES)
    read(monkeypatch, pool, "--model", directory, "--out", out, "--prompts", prompts, "--workers", 2)
    run(pool, directory, tmp_path / "pool.h5")
    tokenizer, found = AutoTokenizer.from_pretrained(directory), conversations(out)
    with TokenFile(tmp_path / "pool.h5") as prepared, h5py.File(out) as file:
        assert list(found) == prepared.ids
        assert file.attrs["tokenizer_sha256"] == prepared.attributes["tokenizer_sha256"]
        ratings = file["rating_token"][:].tolist()
        assert file["prompt"].asstr()[:].tolist() == PROMPTS
    for (own, texts), (instruction, response) in zip(found.items(), ASKED):
        for tokens, prompt in zip(texts, PROMPTS):
            text = asked(prompt, instruction, response)
            if "</s>" not in text:  # there control tokens in texts are text
                begun = tokenizer.apply_chat_template([user(text)], add_generation_prompt=True, tokenize=False, date_string=DATE)
                assert tokenizer.decode(tokens).rstrip(" ") == begun, own  # some write a blank before an answer
            else:
                specials = set(tokenizer.all_special_ids)
                plain = tokenizer.apply_chat_template([user("hello")], add_generation_prompt=True, return_dict=False)
                assert sum(token in specials for token in tokens) == sum(token in specials for token in plain)
            for rating_said, token in enumerate(ratings, 1):
                said = tokenizer.decode([*tokens, token])
                assert said.rstrip() == said and said.removeprefix(tokenizer.decode(tokens)).strip() == str(rating_said)


def test_reasoning_that_a_template_writes_before_answers_is_over(rater, prompts, tmp_path, monkeypatch):
    """Else the model would write a thought next, not a rating."""
    out, directory = tmp_path / "out.h5", rater("reasoning")
    read(monkeypatch, write_lines(tmp_path / "in.jsonl", SAMPLES[:1]), "--model", directory, "--out", out, "--prompts", prompts)
    tokens = conversations(out)["a"][0]
    assert AutoTokenizer.from_pretrained(directory).decode(tokens).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("messages, expected", [
    ([user("q"), assistant("a")], ("q", "a")),
    ([{"role": "system", "content": "s"}, user("q"), assistant("a")], ("System: s\n\nUser: q", "a")),
    ([user("q"), assistant("a"), user("r"), assistant("b"), user("thanks")], ("User: q\n\nAssistant: a\n\nUser: r", "b")),
    ([user("q")], ("q", "")),
    ([], ("", "")),
])  # fmt: skip
def test_instruction_and_response_of_a_conversation(messages, expected):
    assert instruction_and_response(Sample("i", "s", messages, [True] * len(messages), [], [])) == expected


def test_text_is_a_response_to_nothing():
    assert instruction_and_response(Sample("i", "s", [], [], [], [], text="t")) == ("", "t")


def test_sample_that_is_too_long_has_no_conversation_at_all(rater, prompts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.h5"
    rows = [SAMPLES[0], {"id": "long", "prompt": "hello " * 200, "completion": "x"}, {**SAMPLES[0], "id": "b"}]
    read(monkeypatch, write_lines(tmp_path / "in.jsonl", rows), "--model", rater("chatml", 160), "--out", out, "--prompts", prompts)
    found = conversations(out)
    assert found["long"] == [[], []] and found["a"] == found["b"] and all(map(len, found["a"]))
    assert "1  samples that are too long to be rated" in capsys.readouterr().out


def test_own_prompts_can_rate_with_other_numbers(rater, tmp_path, monkeypatch):
    prompts = write_lines(tmp_path / "two.txt", ["good (2) or bad (1)?"])
    pool = write_lines(tmp_path / "in.jsonl", SAMPLES)
    read(monkeypatch, pool, "--model", rater("chatml"), "--out", tmp_path / "out.h5", "--prompts", prompts, "--ratings", 2)
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file["rating_token"]) == 2 and len(file["offsets"]) == 4


def test_five_prompts_come_along():
    prompts = read_prompts(rate.PROMPTS, 5)
    assert len(prompts) == len(set(prompts)) == 5


def test_what_is_refused(rater, prompts, tmp_path, monkeypatch):
    out, pool = tmp_path / "out.h5", write_lines(tmp_path / "in.jsonl", SAMPLES)
    common = ["--model", rater("chatml"), "--out", out]
    bad_lines = {"How good is this?": "no number", "From one to 5?": "names 5", "A mark from 1 to 10?": "names 1 and 10"}
    for line, found in bad_lines.items():
        bad = write_lines(tmp_path / "bad.txt", [PROMPTS[0], line])
        complaint = refused(monkeypatch, pool, *common, "--prompts", bad)
        assert f"{bad}: line 2: '{line}'" in complaint and found in complaint and "expected 1 and 5" in complaint
    assert "expected a rating prompt" in refused(monkeypatch, pool, *common, "--prompts", write_lines(tmp_path / "no.txt", []))
    ten = write_lines(tmp_path / "ten.txt", ["A mark from 1 to 10?"])
    complaint = refused(monkeypatch, pool, *common, "--prompts", ten, "--ratings", 10)
    assert "no token of its own for each of the ratings 1 to 10" in complaint
    twice = write_lines(tmp_path / "twice.jsonl", [SAMPLES[0], SAMPLES[0]])
    assert "line 2: the id 'a' is taken by" in refused(monkeypatch, twice, *common, "--prompts", prompts)
    assert "no such file" in refused(monkeypatch, pool, *common, "--prompts", tmp_path / "none.txt").lower()
    assert not out.exists() and not out.with_name("out.h5.partial").exists()
    read(monkeypatch, twice, *common, "--prompts", prompts, "--max-bad-lines", 1)
    assert list(conversations(out)) == ["a"]


@pytest.mark.parametrize("template, found", [
    ("{% for message in messages %}{{ message['content'] | upper }}{% endfor %}", "the text of message 1 (user) cannot be located"),
    ("{{ raise_exception('no answers here') }}", "no answers here"),
])  # fmt: skip
def test_a_model_whose_template_writes_no_ratings_is_named(template, found, prompts, tmp_path, monkeypatch):
    tokenizer = chat_models.chatml()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    out, pool = tmp_path / "out.h5", write_lines(tmp_path / "in.jsonl", SAMPLES)
    complaint = refused(monkeypatch, pool, "--model", tmp_path / "model", "--out", out, "--prompts", prompts)
    assert f"{tmp_path / 'model'}: the chat template cannot write a question and its rating: " in complaint and found in complaint
    assert "expected another model, or another chat_template.jinja" in complaint and not out.exists()


def test_file_says_what_it_holds(rater, prompts, tmp_path, monkeypatch):
    """The fingerprint changes with anything that a rating depends on; workers change nothing."""
    def fingerprint(rows, **changed):
        path, asked_with = write_lines(tmp_path / "in.jsonl", rows), changed.get("prompts", prompts)
        read(monkeypatch, path, "--model", rater("chatml"), "--out", tmp_path / "out.h5", "--prompts", asked_with,
             "--workers", changed.get("workers", 1))  # fmt: skip
        with h5py.File(tmp_path / "out.h5") as file:
            return file.attrs["content_sha256"]

    rows = [{"id": str(i), "prompt": f"hello {i}", "completion": "world " * (i % 9)} for i in range(300)]
    before = fingerprint(rows)
    assert fingerprint(rows, workers=3) == before
    others = [fingerprint(rows[:-1]), fingerprint([rows[0] | {"id": "other"}, *rows[1:]]),
              fingerprint(rows, prompts=write_lines(tmp_path / "one.txt", [PROMPTS[0]]))]  # fmt: skip
    assert len({before, *others}) == 4
