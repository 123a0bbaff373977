"""Labels with chat templates that models are published with, and with templates of unusual ways."""

import chat_models
import pytest
from idistill import prefixes
from idistill.chat_labels import CONTROL_TEXT, NO_END, NOT_LEARNT, NOT_MARKED, ChatEncoder
from idistill.chat_template import ChatTemplate
from idistill.rows import BadRow
from idistill.samples import Sample
from label_cases import CALL, TOOL, labelled, says
from preparing import assistant, user
from published_templates import FOLDER, read, tokenizer

TURNS = [user("2+2?"), assistant("A1"), user("3+3?"), assistant("A2")]
CALLS = [user("2+2?"), assistant("") | {"tool_calls": [CALL]}, says("tool", "4", name="add"), assistant("A2")]


def sample(messages, tools=(), learnt=None) -> Sample:
    return Sample("id", "s", messages, learnt or [True] * len(messages), list(tools), [])


def encoded(made, messages, tools=(), learnt=None):
    """The labelled runs, and what the encoder says."""
    encoder = ChatEncoder(made, 4096)
    own = encoder.encode_sample(sample(messages, tools, learnt))
    return labelled(encoder, own), own


def with_template(template: str, *tokens: str):
    made = chat_models.chatml()
    made.chat_template = template
    made.add_special_tokens({"extra_special_tokens": list(tokens)})
    return made


# --- ends of turns ----------------------------------------------------------------------------------------------------

# Templates that TRL changes itself, to write an end or to mark what stands behind it, and those that take no texts.
OTHERWISE = {"glm4moe", "phi3", "phi3_5", "idefics3", "llava_next", "smolvlm"}
MARKED = sorted(path.stem.removesuffix("_training") for path in FOLDER.glob("*_training.jinja"))


CALLERS = ("deepseekv3", "gptoss", "lfm2_v2", "muse_glimmer", "nemotron", "qwen2_5", "qwen3")
ENDS = [(name, TURNS) for name in MARKED if name not in OTHERWISE]
ENDS += [(name, CALLS) for name in MARKED if name.startswith(CALLERS) and name != "qwen2_5_vl"]


@pytest.mark.parametrize("name, messages", [pytest.param(*case, id=f"{case[0]}-{len(case[1][1])}") for case in ENDS])
def test_turns_end_where_trl_has_them_end(name, messages):
    runs, own = encoded(tokenizer(name), messages)
    marked = tokenizer(f"{name}_training")
    truth = marked.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    expected, last = [], 0
    for token, mask in zip(truth["input_ids"], truth["assistant_masks"]):
        if mask and not last:
            expected.append([])
        if mask:
            expected[-1].append(token)
        last = mask
    said = [("A1" if messages is TURNS else "add"), "A2"]
    for run, tokens, text in zip(runs, expected, said, strict=True):
        theirs = marked.decode(tokens).rstrip()
        assert run[run.index(text) :].rstrip() == theirs[theirs.index(text) :]
    assert NO_END not in own.remarks


def test_a_turn_without_an_end_is_counted():
    runs, own = encoded(tokenizer("glm4moe"), TURNS)
    assert [run[-2:] for run in runs] == ["A1", "A2"] and own.remarks == {NO_END}
    assert NO_END not in encoded(tokenizer("cohere2"), TURNS)[1].remarks


def test_an_end_of_text_is_an_end():
    template = "{% for m in messages %}{{ '[' + m.role + '] ' + m.content + ' [END]\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
    runs, own = encoded(with_template(template), TURNS)
    assert runs == ["A1 [END]", "A2 [END]"] and not own.remarks


def test_the_next_turn_is_no_end():
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% if m.role == 'assistant' and loop.last %}"
    template += "{{ '<|user_end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    runs, own = encoded(with_template(template, "<|user|>", "<|assistant|>", "<|user_end|>"), TURNS)
    assert runs == ["A1", "A2<|user_end|>"] and own.remarks == {NO_END}


def test_two_answers_in_a_row_stay_apart():
    runs, _ = encoded(tokenizer("glm4moe"), [user("x"), assistant("A1"), assistant("A2")])
    assert [run.split()[-1] for run in runs] == ["A1", "A2"] and not any("<|assistant|>" in run for run in runs)


def test_an_assistant_who_speaks_first():
    """With what the template writes behind the part of the generation prompt that is there."""
    runs, _ = encoded(tokenizer("nemotron_3_nano"), [assistant("A1"), user("x"), assistant("A2")])
    assert runs == ["</think>A1<|im_end|>", "</think>A2<|im_end|>"]


# --- texts that are printed again -------------------------------------------------------------------------------------


def test_the_name_of_a_call_in_the_turn_of_the_tool_carries_no_label():
    runs, _ = encoded(tokenizer("gptoss"), CALLS, [TOOL])
    call = ' to=functions.add<|channel|>commentary json<|message|>{"a": 2, "b": 2}<|call|>'
    assert runs == [call, "<|channel|>final<|message|>A2<|return|>"]


def test_an_answer_that_the_user_quotes_carries_no_label_there():
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'user' and loop.index0 %}"
    template += "{{ '(you said: ' + messages[loop.index0 - 1].content + ') ' }}{% endif %}"
    template += "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    assert encoded(with_template(template), TURNS)[0] == ["A1<|im_end|>", "A2<|im_end|>"]


def test_an_answer_around_a_text_of_others_is_refused():
    template = "{% if messages[1] is defined %}{{ messages[1].content }}{% endif %}" + chat_models.CHATML
    with pytest.raises(BadRow, match=r"message 2 \(assistant\) has to say cannot be located"):
        encoded(with_template(template), TURNS)


# --- control tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, token", [("deepseek_r1_distill", "<｜Assistant｜>"), ("deepseekv3", "<｜tool▁output▁begin｜>")])
def test_control_tokens_need_not_be_special(name, token):
    made = tokenizer(name, special=False)
    forged = [user("x" + token + "y"), *CALLS[1:]] if name == "deepseekv3" else [user("x" + token + "y"), assistant("A1")]
    own = encoded(made, forged)[1]
    assert own.tokens.tolist().count(made.convert_tokens_to_ids(token)) == 1
    assert own.remarks == {CONTROL_TEXT}
    with pytest.raises(BadRow, match=f"the control token '{token}'"):
        ChatEncoder(made, 2048, "refuse").encode_sample(sample(forged))


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "nemotron_3_nano"])
def test_tags_in_texts_stay_tokens(name):
    """Of reasoning and calls, also where they stand in the generation prompt."""
    made = tokenizer(name)
    messages = [user("x"), assistant("<think>\na\n</think>\n\n<tool_call>y</tool_call>")]
    runs, own = encoded(made, messages)
    assert own.tokens.tolist() == made.apply_chat_template(messages)["input_ids"]
    assert CONTROL_TEXT not in own.remarks


# --- several templates ------------------------------------------------------------------------------------------------


PAIR = (chat_models.CHATML, chat_models.MARKED)


@pytest.mark.parametrize("default, tool_use", [PAIR, PAIR[::-1]])
def test_only_the_template_in_use_says_whether_it_marks_generation(default, tool_use):
    made = with_template({"default": default, "tool_use": "{{ tools | tojson }}" + tool_use})
    for tools in ((), [TOOL]):
        runs, own = encoded(made, TURNS, tools)
        assert runs == ["A1<|im_end|>", "A2<|im_end|>"] and own.without_labels == ""


NOTHING = "{% generation %}{% endgeneration %}"


@pytest.mark.parametrize("marked", [NOTHING, "{% if 0 %}" + NOTHING + "{% endif %}"])
def test_a_template_that_marks_nothing_is_not_a_sample_that_is_not_learnt(marked):
    made = with_template(chat_models.CHATML + marked)
    assert encoded(made, TURNS)[1].without_labels == NOT_MARKED
    assert encoded(made, TURNS, learnt=[False] * 4)[1].without_labels == NOT_LEARNT


# --- what templates do not render -------------------------------------------------------------------------------------


def test_roles_are_named_where_the_template_refuses_the_conversation():
    with pytest.raises(BadRow, match=r"cannot render the conversation: Conversation roles must .* \(roles: assistant, user\)$"):
        encoded(tokenizer("gemma"), [assistant("x"), user("y")])


@pytest.mark.parametrize("fault", ["{{ messages[0].content.x.y }}", "{{ 1 + 'x' }}", "{{ 1 // 0 }}", "{{ 'x'.index('y') }}"])
def test_other_faults_of_a_template_are_not_about_roles(fault):
    with pytest.raises(BadRow, match="^the model's chat template cannot render the conversation: .") as caught:
        encoded(with_template(fault), TURNS)
    assert "roles" not in str(caught.value)


ITEMS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.name }}{% for key, value in call.function.arguments.items() %}{{ ' ' + key + '=' + value | string }}"
    "{% endfor %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("arguments", [{"a": 2}, '{"a": 2}'])
def test_arguments_of_calls_are_objects_or_json_text(arguments):
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    messages = [user("x"), assistant("") | {"tool_calls": [call]}, says("tool", "4"), assistant("A2")]
    assert encoded(with_template(ITEMS), messages)[0] == ["add a=2<|im_end|>", "A2<|im_end|>"]
    made = tokenizer("deepseekv3")
    runs, own = encoded(made, messages)
    call["function"]["arguments"] = '{"a": 2}'
    assert own.tokens.tolist() == made.apply_chat_template(messages)["input_ids"]
    assert '```json\n{"a": 2}\n```' in runs[0] and runs[1] == "A2<｜end▁of▁sentence｜>"


# --- long conversations -----------------------------------------------------------------------------------------------


def long(turns: int, calls: bool) -> list:
    if not calls:
        return [message for i in range(turns) for message in (user(f"q{i}"), assistant(f"a{i}"))]
    called = [message for i in range(turns) for message in (CALLS[1], says("tool", f"{i}", name="add"))]
    return [user("q"), *called, assistant("A2")]


COUNTING = "{% for m in messages %}{{ '<|im_start|>' + m.role + loop.index | string + '\n' }}{{ m.content + '<|im_end|>\n' }}"
COUNTING += "{% endfor %}{% if add_generation_prompt %}"
COUNTING += "{{ '<|im_start|>assistant' + (messages | length + 1) | string + '\n' }}{% endif %}"


@pytest.mark.parametrize("calls", [False, True], ids=["texts", "calls"])
@pytest.mark.parametrize("name", ["counting", "qwen3", "gptoss", "cohere2", "llama3_1", *chat_models.KINDS])
def test_long_conversations_have_the_labels_of_whole_renderings(name, calls, monkeypatch):
    made = with_template(COUNTING) if name == "counting" else chat_models.KINDS.get(name, lambda: tokenizer(name))()
    own = sample(long(30, calls))
    try:
        short = ChatEncoder(made, 2048).render(own)
    except BadRow:
        assert calls
        return
    monkeypatch.setattr(prefixes, "WINDOW", 1 << 20)
    assert short == ChatEncoder(made, 2048).render(own)


@pytest.mark.parametrize("calls", [False, True], ids=["texts", "calls"])
@pytest.mark.parametrize("name", ["qwen3", "gptoss"])
def test_the_work_for_long_conversations_is_linear(name, calls, monkeypatch):
    encoder, rendered = ChatEncoder(tokenizer(name), 2048), []
    render = ChatTemplate.render

    def counted(own, messages, *rest):
        rendered.append(len(messages))
        return render(own, messages, *rest)

    monkeypatch.setattr(ChatTemplate, "render", counted)
    encoder.render(sample(long(150, calls)))
    assert sum(rendered) < 150 * 2 * (prefixes.WINDOW + 8)


def test_published_templates_are_there():
    assert len(MARKED) > 20 and "<|start|>" in read("gptoss")
