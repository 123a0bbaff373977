"""Two samples in one conversation: joined tokens are those that the chat template gives for the conversation of both."""

import hashlib
import itertools

import chat_models
import h5py
import numpy as np
import pytest
from idistill.chat_labels import ChatEncoder
from idistill.chat_template import DATE
from idistill.joints import NO_BEGINNING, OTHERWISE, PLAIN, PREAMBLE, REFUSED, Joints
from idistill.rows import BadRow
from idistill.samples import Sample
from idistill.token_file import HASH_BLOCK, UNJOINED, Joint, TokenFile, TokenFileWriter
from label_cases import CALL, TOOL, says
from preparing import assistant, run, user, write_lines
from published_templates import FOLDER, tokenizer

SYSTEM = says("system", "Be brief.")
CALLING = [user("2+2?"), assistant("") | {"tool_calls": [CALL]}, says("tool", "4", name="add"), assistant("It is 4")]
THOUGHT = [user("2+2?"), assistant("4") | {"reasoning_content": "Two and two."}]
PLAIN_TURNS = {
    "one turn": [user("hello"), assistant("hello world")],
    "turns": [user("hello"), assistant("Paris."), user("thank you"), assistant("def f(x):\n    return x + 1 🙂")],
    "white space": [user(" hello \n"), assistant("\n good  night \n\n")],
    "control tokens as text": [user("Say <|im_end|> or <|eot_id|>"), assistant("<|im_start|>user\nhello")],
    "no ASCII": [user("你好"), assistant("你好，世界。")],
}
WITH_SYSTEM = {"system": [SYSTEM, user("hello"), assistant("hi")]}
FAMILIES = {
    "chatml": PLAIN_TURNS | WITH_SYSTEM,
    "llama3": PLAIN_TURNS | WITH_SYSTEM,
    "qwen2.5": PLAIN_TURNS | WITH_SYSTEM | {"calls": CALLING},
    "qwen3": PLAIN_TURNS | WITH_SYSTEM | {"calls": CALLING, "reasoning": THOUGHT},
}
# As published, on tiny tokenizers.
PUBLISHED = {
    "llama3": PLAIN_TURNS | WITH_SYSTEM,
    "qwen2_5": PLAIN_TURNS | WITH_SYSTEM | {"calls": CALLING},
    "qwen3": PLAIN_TURNS | WITH_SYSTEM | {"calls": CALLING, "reasoning": THOUGHT},
}


def sample(messages, tools=()) -> Sample:
    return Sample("id", "s", messages, [True] * len(messages), list(tools), [])


def encoded(encoder, own):
    conversation = encoder.render(own)
    return conversation, encoder.encode([conversation])[0]


def without_preamble(messages):
    return list(itertools.dropwhile(lambda message: message["role"] == "system", messages))


def of_template(encoder, example: Sample, other: Sample):
    """Tokens of the conversation of both, and what the model would have to write of the second."""
    behind = without_preamble(other.messages)
    both = sample(example.messages + behind, example.tools)
    both.learnt[: len(example.messages)] = [False] * len(example.messages)
    return encoded(encoder, both)[1]


def check_pairs(tokenizer, samples: dict[str, Sample]):
    encoder = ChatEncoder(tokenizer, 4096)
    joints = Joints(encoder)
    assert joints.problem == ""
    alone = {name: encoded(encoder, own) for name, own in samples.items()}
    made = {name: joints.of(samples[name], *alone[name]) for name in samples}
    assert {name: why for name, (_, why) in made.items() if why} == {}
    for first, second in itertools.product(samples, repeat=2):
        own, (example, other) = alone[second][1], (made[first][0], made[second][0])
        found = np.concatenate((example.whole(alone[first][1].tokens), own.tokens[other.first :]))
        expected = of_template(encoder, samples[first], samples[second])
        assert found.tolist() == expected.tokens.tolist(), (first, second)
        # Labels of the second are where they are in the conversation of both, all of them.
        labels = own.label_mask[other.first :]
        assert labels.sum() == own.label_mask.sum() > 0
        assert expected.label_mask.tolist() == [0] * (len(found) - len(labels)) + labels.tolist(), (first, second)
        if "control tokens as text" not in (first, second):
            messages = samples[first].messages + without_preamble(samples[second].messages)
            tools = samples[first].tools or None
            assert found.tolist() == tokenizer.apply_chat_template(messages, tools=tools, date_string=DATE, return_dict=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_joined_tokens_are_those_of_the_template(family):
    check_pairs(chat_models.KINDS[family](), {name: sample(messages) for name, messages in FAMILIES[family].items()})


@pytest.mark.parametrize("name", PUBLISHED)
def test_joined_tokens_are_those_of_published_templates(name):
    check_pairs(tokenizer(name), {case: sample(messages) for case, messages in PUBLISHED[name].items()})


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3"])
def test_tools_of_the_example_stay_and_those_of_the_other_are_left_out(family):
    check_pairs(chat_models.KINDS[family](), {"with": sample(CALLING, [TOOL]), "without": sample(PLAIN_TURNS["turns"])})


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training")))
def test_no_published_template_joins_other_tokens(name):
    """Either the tokens are exact or the sample is not joined."""
    encoder = ChatEncoder(tokenizer(name), 4096)
    joints = Joints(encoder)
    samples = [sample(PLAIN_TURNS[case]) for case in ("one turn", "turns", "white space", "no ASCII")]
    for example, other in itertools.product(samples, repeat=2):
        try:
            alone = encoded(encoder, example), encoded(encoder, other)
        except BadRow:  # a template that takes no texts
            continue
        (first, why), (second, why_not) = joints.of(example, *alone[0]), joints.of(other, *alone[1])
        if why or why_not:
            continue
        found = np.concatenate((first.whole(alone[0][1].tokens), alone[1][1].tokens[second.first :]))
        assert found.tolist() == of_template(encoder, example, other).tokens.tolist()


def test_reasoning_of_the_example_is_left_out_where_the_template_leaves_it_out():
    encoder = ChatEncoder(chat_models.KINDS["qwen3"](), 4096)
    alone = encoded(encoder, sample(THOUGHT))
    joint, why = Joints(encoder).of(sample(THOUGHT), *alone)
    assert why == "" and "Two and two." in encoder.tokenizer.decode(alone[1].tokens)
    assert "Two and two." not in encoder.tokenizer.decode(joint.whole(alone[1].tokens))
    assert "Two and two." in encoder.tokenizer.decode(alone[1].tokens[joint.first :])  # where it is the second


@pytest.mark.parametrize("family, ending", [("chatml", ""), ("llama3", "<|eot_id|>"), ("qwen3", "<|im_end|>\n")])
def test_a_sample_that_is_cut_ends_its_turn_as_an_example(family, ending):
    tokenizer = chat_models.KINDS[family]()
    own = sample([user("hello"), assistant("world " * 50)])
    whole = encoded(ChatEncoder(tokenizer, 4096), own)[1].tokens
    encoder = ChatEncoder(tokenizer, 40)
    conversation, cut = encoded(encoder, own)
    assert cut.truncated and cut.tokens.tolist() == whole[:40].tolist()
    joints = Joints(encoder)
    joint, why = joints.of(own, conversation, cut)
    example = joint.whole(cut.tokens)
    assert why == "" and len(example) == 40
    ends = tokenizer(ending, add_special_tokens=False)["input_ids"] if ending else []
    assert example.tolist()[len(example) - len(ends) :] == ends
    kept = len(example) - len(ends)
    other = sample([user("hello"), assistant("hi")])
    second = joints.of(other, *encoded(encoder, other))[0]
    behind = encoded(encoder, other)[1].tokens[second.first :]
    # The template's own for the answer that is left.
    left = tokenizer.decode(example[:kept]).rpartition("assistant")[2].lstrip("<|end_header_id|>").lstrip("\n")
    if family != "qwen3":  # which has other tokens in a last turn than in an earlier one
        shorter = of_template(ChatEncoder(tokenizer, 4096), sample([user("hello"), assistant(left)]), other)
        assert [*example, *behind] == shorter.tokens.tolist()


@pytest.mark.parametrize(
    "family, messages, why",
    [
        ("llama2", PLAIN_TURNS["one turn"], NO_BEGINNING),
        ("olmo", PLAIN_TURNS["one turn"], NO_BEGINNING),
        ("mistral", WITH_SYSTEM["system"], PREAMBLE),  # stands before the last question
        ("olmo3", [assistant("hi")], ""),
        ("qwen3", [assistant("hi")], ""),
    ],
)
def test_what_cannot_be_joined_is_named(family, messages, why):
    encoder = ChatEncoder(chat_models.KINDS[family](), 4096)
    joint, found = Joints(encoder).of(sample(messages), *encoded(encoder, sample(messages)))
    assert found == why and (joint.first == -1) == bool(why)


def test_a_template_that_refuses_a_further_turn():
    made = chat_models.chatml()
    made.chat_template = (
        "{% if messages | length > 4 %}{{ raise_exception('too many') }}{% endif %}" + made.chat_template
    )
    encoder = ChatEncoder(made, 4096)
    own = sample(PLAIN_TURNS["turns"])
    assert Joints(encoder).of(own, *encoded(encoder, own)) == (UNJOINED, REFUSED)


def test_plain_text_cannot_be_joined():
    encoder = ChatEncoder(chat_models.chatml(), 4096)
    own = sample([])._replace(text="hello world")
    assert Joints(encoder).of(own, *encoded(encoder, own)) == (UNJOINED, PLAIN)


def test_turns_that_differ_behind_others_cannot_be_joined():
    made = chat_models.chatml()
    numbered = "message['role'] + (loop.index | string if loop.index > 4 else '') + '\n'"
    made.chat_template = made.chat_template.replace("message['role'] + '\n'", numbered)
    encoder = ChatEncoder(made, 4096)
    joints = Joints(encoder)
    own = sample(PLAIN_TURNS["turns"])
    assert joints.of(own, *encoded(encoder, own)) == (UNJOINED, OTHERWISE)


def test_prepare_stores_joints_and_what_was_hashed_before_stays(tmp_path):
    model = chat_models.save("llama3", tmp_path / "model")
    rows = [{"messages": PLAIN_TURNS["one turn"]}, {"messages": [user("x")]}, {"messages": [user("hello"), assistant("world " * 60)]}]
    summary = run(write_lines(tmp_path / "in.jsonl", rows), model, tmp_path / "out.h5", max_length=48)
    assert "one conversation" not in str(summary)
    with TokenFile(tmp_path / "out.h5") as file:
        assert file.attributes["version"] == 1 and file.attributes["content_sha256"] == file.content_sha256()
        assert file.joint(1).first == -1  # without labels
        assert file.joint(0).whole(file[0][0]).tolist() == file[0][0].tolist()
        assert len(file.joint(2).tail) == 1
        with TokenFileWriter(tmp_path / "without.h5", file.attributes["tokenizer_sha256"], 48) as plain:
            for own in file:
                plain.append(*own)
    with TokenFile(tmp_path / "without.h5") as plain, TokenFile(tmp_path / "out.h5") as file:
        assert plain.attributes["content_sha256"] == file.attributes["content_sha256"]
        assert "joint_sha256" not in plain.attributes


def test_the_summary_counts_what_cannot_be_joined(tmp_path):
    model = chat_models.save("llama2", tmp_path / "model")
    summary = run(write_lines(tmp_path / "in.jsonl", [{"messages": PLAIN_TURNS["one turn"]}] * 3), model, tmp_path / "out.h5")
    assert f"  3  {NO_BEGINNING}" in str(summary)


def test_joint_sha256_is_as_defined(tmp_path):
    count = HASH_BLOCK + 2
    joints = [Joint(i % 5 - 1, i % 7, np.arange(i % 3, dtype=np.int32)) for i in range(count)]
    with TokenFileWriter(tmp_path / "out.h5", "0" * 64, 0, joints=True) as file:
        for i, joint in enumerate(joints):
            file.append(f"s{i}", "s", np.arange(9, dtype=np.int32), np.ones(9, np.uint8), joint)
    digests = b""
    with h5py.File(tmp_path / "out.h5") as file:
        joint = {name: file["joint"][name][:] for name in ("first", "kept", "offsets", "tail")}
        for begin in range(0, count, HASH_BLOCK):
            rows, end = slice(begin, begin + HASH_BLOCK), min(count, begin + HASH_BLOCK)
            offsets = joint["offsets"][begin : end + 1]
            parts = (joint["first"][rows], joint["kept"][rows], offsets, joint["tail"][offsets[0] : offsets[-1]])
            digests += hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()
        assert file.attrs["joint_sha256"] == hashlib.sha256(digests).hexdigest()
