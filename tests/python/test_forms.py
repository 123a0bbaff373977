"""Rows in the forms of users, and the messages, tools and labels that are made of them."""

import json

import pytest
from idistill.rows import BadRow, Origin, Place, Reading, Row
from idistill.samples import Sample, parse_sample
from preparing import assistant, user


def sample(row, form=None, tags=None, **columns) -> Sample:
    """Of a line of JSON where the row is text, else of columns as Parquet gives them."""
    origin = Origin("in", ("in",), "in", False, Reading(form, columns, (), tags))
    return parse_sample(Row(Place("in.jsonl", "line", 1), origin, row.encode() if isinstance(row, str) else row))


def messages(row, *arguments, **columns):
    """The same as a line and as columns."""
    found = sample(row, *arguments, **columns)
    assert sample(json.dumps(row), *arguments, **columns).messages == found.messages
    assert len(found.learnt) == len(found.messages)
    return found.messages


def refused(row, *arguments, **columns) -> str:
    with pytest.raises(BadRow) as error:
        sample(json.dumps(row), *arguments, **columns)
    return str(error.value)


def system(text):
    return {"role": "system", "content": text}


ASKED = [user("2+2?"), assistant("4")]


@pytest.mark.parametrize("row", [
    {"messages": ASKED},
    {"prompt": "2+2?", "completion": "4"},
    {"prompt": "2+2?", "response": "4"},
    {"prompt": [user("2+2?")], "completion": [assistant("4")]},
    {"prompt": [user("2+2?")], "completion": "4"},
    {"instruction": "2+2?", "output": "4", "input": "", "system": "", "history": []},
    {"instruction": "2+2?", "response": "4", "context": ""},
    {"question": "2+2?", "answer": "4"},
    {"question": "2+2?", "response": "4", "system_prompt": ""},
    {"query": "2+2?", "response": "4"},
    {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    {"messages": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": "4"}]},
    {"conversations": ASKED},
    {"messages": json.dumps(ASKED)},
    {"messages": [user([{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]), assistant(["4"])]},
], ids=lambda row: ",".join(row))  # fmt: skip
def test_forms_of_one_conversation(row):
    assert messages(row) == ASKED
    assert sample(row).unused == [] and sample(row).tools == [] and sample(row).text is None


def test_system_and_history_of_alpaca():
    row = {"instruction": "Say hi", "output": "hi", "system": "Be rude.", "history": [["who?", "me"]]}
    assert messages(row) == [system("Be rude."), user("who?"), assistant("me"), user("Say hi"), assistant("hi")]
    assert sample(row).learnt == [True] * 5
    assert messages({**row, "history": json.dumps(row["history"])}) == messages(row)
    assert "'history' has ['who?'], expected pairs" in refused({**row, "history": [["who?"]]})
    assert "'history' is 5, expected a list of pairs" in refused({**row, "history": 5})
    assert "'answer 1 of history' is missing" in refused({**row, "history": [["who?", None]]})


def test_an_array_in_a_line():
    assert "found a JSON list, expected a JSON object; the name of a file that is one JSON array must end with .json" in refused([1])


def test_an_instruction_that_is_all_in_the_input():
    assert messages({"instruction": "", "input": "2+2?", "output": "4"}) == ASKED
    assert messages({"instruction": "2+2?", "input": " ", "output": "4"}) == ASKED


@pytest.mark.parametrize("name", ["train_detail", "training_detail"])
def test_labels_of_a_part_of_a_message_are_refused(name):
    message = refused({"messages": [user("a"), {**assistant("b"), name: [{"begin_offset": 0, "end_offset": 0, "train": False}]}]})
    assert f"message 2 has '{name}': [" in message and "expected 'train' alone" in message
    assert sample({"messages": [user("a"), {**assistant("b"), name: []}]}).learnt == [True, True]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_system_beside_every_form(name):
    for row in ({"prompt": "2+2?", "completion": "4"}, {"messages": ASKED}, {"question": "2+2?", "answer": "4"}):
        assert messages({**row, name: "Be brief."}) == [system("Be brief."), *ASKED]
    said = {"messages": [system("Be brief."), *ASKED], name: "Be brief."}
    assert messages(said) == said["messages"]
    assert "several system prompts" in refused({**said, name: "Be rude."})
    assert f"'{name}' is 5, expected a string" in refused({"prompt": "2+2?", "completion": "4", name: 5})


def test_columns_that_the_form_does_not_use():
    row = {"id": "a", "source": "s", "messages": [{**ASKED[0], "time": 5}, ASKED[1]], "prompt": "2+2?", "topic": "sums", "none": None}
    assert sorted(sample(row).unused) == ["messages.time", "prompt", "topic"]


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trainable", "train", "training", "loss_mask", "loss", "loss_weight", "loss_scale", "weight"])
def test_messages_that_are_not_to_be_learnt(name):
    def learnt(*values):
        return sample({"messages": [user("a"), *({**assistant("b"), name: value} for value in values)]}).learnt

    assert learnt(False, True, 0, 1, 0.0, 1.0, None) == [True, False, True, False, True, False, True, True]
    message = refused({"messages": [user("a"), {**assistant("b"), name: 0.5}]})
    assert f"message 2 has '{name}': 0.5" in message and "expected 0, 1, true or false" in message
    assert f"message 2 has '{name}': 'no'" in refused({"messages": [user("a"), {**assistant("b"), name: "no"}]})
    assert sample({"messages": [{**user("a"), name: 0}, assistant("b")]}).learnt == [False, True]
    assert f"'user' and has '{name}': 1; only what an assistant says" in refused({"messages": [{**user("a"), name: 1}, assistant("b")]})


def test_masked_is_the_opposite_and_contradictions_are_refused():
    assert sample({"messages": [user("a"), {**assistant("b"), "masked": True}]}).learnt == [True, False]
    both = {**assistant("b"), "train": True, "weight": 0}
    assert "'train' and 'weight', which contradict each other" in refused({"messages": [user("a"), both]})


def test_answers_of_a_prompt_are_not_learnt():
    row = {"prompt": [user("a"), assistant("b"), user("c")], "completion": [assistant("d")]}
    assert sample(row).learnt == [False, False, False, True]


# --- tools and reasoning ----------------------------------------------------------------------------------------------

SCHEMA = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
TOOL = {"type": "function", "function": SCHEMA}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.mark.parametrize("tools", [
    [TOOL], [SCHEMA], json.dumps([TOOL]), json.dumps([SCHEMA]), [json.dumps(TOOL)],
], ids=["objects", "schemas", "JSON", "JSON of schemas", "list of JSON"])  # fmt: skip
def test_tools(tools):
    for name in ("tools", "functions"):
        assert sample({"messages": ASKED, name: tools}).tools == [TOOL]
        assert sample(json.dumps({"prompt": "a", "completion": "b", name: tools})).tools == [TOOL]


def test_tools_that_are_none():
    for tools in ([], "", "[]", None):
        assert sample(json.dumps({"messages": ASKED, "tools": tools})).tools == []
    for tools, problem in [("none", "not valid JSON"), ({"a": 1}, "expected a list of JSON schemas"), ([5], "expected an object"),
                           ([{"function": 5}], "expected the JSON schema of a function")]:  # fmt: skip
        assert problem in refused({"messages": ASKED, "tools": tools})


@pytest.mark.parametrize("calls", [
    [CALL], CALL, json.dumps([CALL]), [CALL["function"]], [json.dumps(CALL)],
    [{"function": {"name": "add", "arguments": '{"a": 1}'}}],
], ids=["list", "one", "JSON", "flat", "list of JSON", "arguments of JSON"])  # fmt: skip
def test_tool_calls(calls):
    answer = {"role": "tool", "content": "2", "tool_call_id": "x", "name": "add"}
    row = {"messages": [user("1+1?"), {"role": "assistant", "content": None, "tool_calls": calls}, answer, assistant("2")]}
    assert messages(row) == [user("1+1?"), {**assistant(""), "tool_calls": [CALL]}, answer, assistant("2")]


def test_tool_calls_keep_their_id_and_what_is_null_in_json():
    call = {"id": "abc", "type": "function", "function": {"name": "add", "arguments": {"a": None}}}
    row = {"messages": [user("a"), {**assistant("b"), "tool_calls": [call]}]}
    assert sample(json.dumps(row)).messages[1]["tool_calls"] == [call]


def test_function_call_of_openai():
    call = {"name": "add", "arguments": '{"a": 1}'}
    row = {"messages": [user("a"), {"role": "assistant", "function_call": call}, {"role": "function", "name": "add", "content": "2"}]}
    assert messages(row) == [user("a"), {**assistant(""), "tool_calls": [CALL]}, {"role": "tool", "name": "add", "content": "2"}]


def test_null_padding_of_arrow(tmp_path):
    """A structure of Parquet has every field of any row: what other rows' calls and tools need is null here."""
    import pyarrow
    import pyarrow.parquet
    from idistill.samples import read_samples

    other = {"name": "find", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}}
    rows = [
        {"messages": [user("a"), {**assistant(""), "tool_calls": [CALL], "content": None}], "tools": [TOOL]},
        {"messages": [user("b"), {**assistant("c"), "weight": 0}], "tools": [{"type": "function", "function": other}]},
        {"messages": [user("d"), {**assistant(""), "tool_calls": [{"function": {"name": "find", "arguments": {"what": "e"}}}]}]},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    first, second, third = read_samples(tmp_path / "in.parquet")
    assert (first.messages[1], first.tools, first.learnt) == ({**assistant(""), "tool_calls": [CALL]}, [TOOL], [True, True])
    assert (second.messages[1], second.learnt) == (assistant("c"), [True, False])
    assert second.tools == [{"type": "function", "function": other}]
    assert third.messages[1]["tool_calls"][0]["function"] == {"name": "find", "arguments": {"what": "e"}} and third.tools == []


@pytest.mark.parametrize("message, problem", [
    ({**user("x"), "tool_calls": [CALL]}, "the role 'user' has tool_calls, which only an assistant writes"),
    ({**user("x"), "thought": "hm"}, "the role 'user' has reasoning, which only an assistant writes"),
    ({**assistant("x"), "tool_calls": 5}, "'tool_calls' is 5, expected calls"),
    ({**assistant("x"), "tool_calls": "{"}, "'tool_calls' is '{', which is not valid JSON"),
    ({**assistant("x"), "tool_calls": [{"function": {"arguments": {}}}]}, "expected 'name', a string, and 'arguments', an object"),
    ({**assistant("x"), "tool_calls": [{"name": "f", "arguments": [1]}]}, "expected 'name', a string, and 'arguments', an object"),
    ({**assistant("x"), "tool_calls": [{"name": "f", "parameters": {}}]}, "expected 'name', a string, and 'arguments', an object"),
    ({**assistant("x"), "tool_calls": [{"name": "f", "arguments": "{"}]}, "'arguments' is '{', which is not valid JSON"),
    ({**assistant("x"), "tool_calls": [{"type": "code", "name": "f"}]}, "expected calls of functions"),
    ({**assistant("x"), "thought": True}, "'thought' is True, expected a string"),
    ({**assistant("x"), "thought": "a", "reasoning": "b"}, "has 'reasoning' and 'thought', which differ"),
    ({**assistant("x"), "tool_call_id": 5}, "'tool_call_id' is 5, expected a string"),
    (assistant([{"type": "image_url", "image_url": {"url": "u"}}]), "part 1 of 'content' is of the type 'image_url'"),
    (assistant([{"type": "text", "text": "a"}, {"type": "image"}]), "part 2 of 'content' is of the type 'image'"),
    (assistant([5]), "'part 1 of content' is 5, expected a string"),
    ({"role": "asistant", "content": "x"}, "the role 'asistant', expected one of system, developer, user, assistant, tool, function"),
    ({"role": ["user"], "content": "x"}, "the role ['user'], expected one of"),
    ({"from": "chatgpt", "value": "x"}, "the role 'chatgpt', expected one of system, human, user, gpt, assistant, function_call, obs"),
    ({"from": "function_call", "value": "add(1)"}, "'value' is 'add(1)', which is not valid JSON"),
])  # fmt: skip
def test_messages_that_are_refused_by_name(message, problem):
    found = refused({"messages": [user("a"), message]})
    assert found.startswith("message 2") and problem in found


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thought", "thinking"])
def test_reasoning_of_a_message_and_of_a_row(name):
    thought = {**assistant("4"), "reasoning_content": "two and two"}
    assert messages({"messages": [ASKED[0], {**ASKED[1], name: "two and two"}]}) == [ASKED[0], thought]
    for row in ({"prompt": "2+2?", "completion": "4"}, {"messages": ASKED}):
        assert messages({**row, name: "two and two"}) == [ASKED[0], thought]
        assert sample({**row, name: "two and two"}).unused == []
    several = {"messages": [*ASKED, *ASKED], name: "two and two"}
    assert f"'{name}' beside 2 answers" in refused(several)
    assert f"'{name}' is 5, expected a string" in refused({"messages": ASKED, name: 5})
    assert messages(several, **{name: ""}) == [*ASKED, *ASKED] and sample(several, **{name: ""}).unused == [name]


def test_sharegpt_with_calls():
    row = {
        "system": "Be brief.", "tools": json.dumps([SCHEMA]),
        "conversations": [
            {"from": "human", "value": "1+1?"}, {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": "2"}, {"from": "gpt", "value": "It is 2."},
        ],
    }  # fmt: skip
    called = {**assistant(""), "tool_calls": [CALL]}
    assert messages(row) == [system("Be brief."), user("1+1?"), called, {"role": "tool", "content": "2"}, assistant("It is 2.")]
    assert sample(row).tools == [TOOL]


# --- what is taken only where it is asked for -------------------------------------------------------------------------


def test_text_alone():
    row = {"id": "a", "text": "Once upon a time", "tools": "none", "url": "u"}
    assert "give --form text" in refused(row)
    found = sample(row, "text")
    assert (found.text, found.messages, found.learnt, found.unused) == ("Once upon a time", [], [], ["tools", "url"])
    assert sample({"body": "Once"}, "text", text="body").text == "Once"
    assert "found 'prompt'; expected 'text', for --form text" in refused({"prompt": "a"}, "text")
    assert "'text' is 5, expected a string" in refused({"text": 5}, "text")


@pytest.mark.parametrize("row", [
    {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    {"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5"},
    {"question": "2+2?", "chosen": "4", "rejected": "5"},
    {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    {"prompt": "2+2?", "chosen": ASKED, "rejected": [user("2+2?"), assistant("5")]},
    {"chosen": ASKED, "rejected": [user("2+2?"), assistant("5")]},
    {"conversations": [{"from": "human", "value": "2+2?"}], "chosen": {"from": "gpt", "value": "4"}, "rejected": {"from": "gpt", "value": "5"}},
], ids=lambda row: ",".join(row))  # fmt: skip
def test_chosen_of_two_answers(row):
    assert messages(row, "chosen") == ASKED
    assert "rejected" in sample(row, "chosen").unused
    assert "give --form chosen" in refused(row)


def test_chosen_without_what_it_answers():
    assert "'chosen' is an answer alone" in refused({"chosen": "4", "rejected": "5"}, "chosen")
    assert "expected 'chosen', for --form chosen" in refused({"prompt": "2+2?", "completion": "4"}, "chosen")


# --- --columns --------------------------------------------------------------------------------------------------------


def test_columns_by_other_names():
    assert messages({"Q": "2+2?", "A": "4"}, prompt="Q", completion="A") == ASKED
    assert messages({"dialog": ASKED}, messages="dialog") == ASKED
    assert sample({"uid": 7, "prompt": "2+2?", "completion": "4"}, id="uid").id == "7"
    assert sample({"set": "s", "prompt": "2+2?", "completion": "4"}, source="set").source == "s"


def test_named_columns_go_before_others():
    row = {"messages": [user("x"), assistant("y")], "question": "2+2?", "answer": "4", "prompt": "z"}
    assert messages(row, prompt="question", completion="answer") == ASKED
    assert sorted(sample(row, prompt="question", completion="answer").unused) == ["messages", "prompt"]
    swapped = {"input": "2+2?", "output": "4"}  # which are then no parts of another form
    assert messages(swapped, instruction="input") == ASKED


def test_a_named_column_that_is_not_there():
    message = refused({"Q": "2+2?", "A": "4"}, prompt="Q", completion="answer")
    assert "found 'Q', 'A', but not 'answer', which --columns names" in message
    assert sample({"prompt": "a", "completion": "b"}, system="sytem").absent == ["sytem"]
