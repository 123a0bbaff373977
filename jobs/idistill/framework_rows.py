"""Conversations as training frameworks read them. Raises NoPlace for what a framework has no place for."""

import json
from typing import Any

from idistill.samples import Sample

THOUGHT = ("<think>\n", "\n</think>\n\n")  # around reasoning in the text of an answer, as LLaMA-Factory takes it

LEFT_OUT = ("name", "tool_call_id")  # fields of messages that the ShareGPT form has no place for


class NoPlace(Exception):
    """The text says for what."""


def trl_row(sample: Sample) -> dict[str, Any]:
    """`messages` and `tools` with the roles of chat templates."""
    _check_all_learnt(sample)
    return {"messages": sample.messages} | ({"tools": _json(sample.tools)} if sample.tools else {})


def axolotl_row(sample: Sample) -> dict[str, Any]:
    """`messages` and `tools`; `train` says of an assistant's message whether it is learnt.

    Arguments of tool calls and the schemas of tools are texts of JSON: earlier versions of `datasets` would give every one the
    keys of all others.
    """
    messages = []
    for message, learnt in zip(sample.messages, sample.learnt):
        message = dict(message)
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [
                call | {"function": call["function"] | {"arguments": _json(call["function"]["arguments"])}} for call in calls
            ]
        if message["role"] == "assistant":
            message["train"] = learnt
        messages.append(message)
    return {"messages": messages} | ({"tools": _json(sample.tools)} if sample.tools else {})


def sharegpt_row(sample: Sample) -> dict[str, Any]:
    """`conversations`, `system` and `tools`, for LLaMA-Factory.

    It skips a conversation, with no more than a warning, in which not every other message is an answer or a call.
    """
    _check_all_learnt(sample)
    messages, system = sample.messages, ""
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    turns = []
    for number, message in enumerate(messages, len(sample.messages) - len(messages) + 1):
        tag, value = _sharegpt_turn(message, f"message {number} ({message['role']})")
        if (tag in ("gpt", "function_call")) != (len(turns) % 2 == 1):
            raise NoPlace(f"message {number} ({message['role']}) where it stands: what a user or a tool says, and what the "
                          "assistant says, must take turns")  # fmt: skip
        turns.append({"from": tag, "value": value})
    if len(turns) % 2:
        raise NoPlace("a conversation that does not end with the assistant")
    return {"conversations": turns, "system": system, "tools": _json(sample.tools) if sample.tools else ""}


def _sharegpt_turn(message: dict[str, Any], named: str) -> tuple[str, str]:
    content = message["content"]
    if message["role"] == "user":
        return "human", content
    if message["role"] == "tool":
        return "observation", content
    if message["role"] != "assistant":
        raise NoPlace(f"{named}; only the first message may be of the role system")
    thought = THOUGHT[0] + message["reasoning_content"] + THOUGHT[1] if message.get("reasoning_content") else ""
    if not message.get("tool_calls"):
        return "gpt", thought + content
    if content.strip():
        raise NoPlace(f"text beside the tool calls of {named}")
    return "function_call", thought + _json([call["function"] for call in message["tool_calls"]])


def _check_all_learnt(sample: Sample):
    if not all(learnt for message, learnt in zip(sample.messages, sample.learnt) if message["role"] == "assistant"):
        raise NoPlace("an assistant's message that is not to be learnt")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
