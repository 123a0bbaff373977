"""Conversations with stand-ins for their texts: what a chat template writes around them is the template's own."""

import json
import re
from typing import Any, NamedTuple

from idistill.chat_template import Messages, Tools
from idistill.samples import Sample

NO_MESSAGE = -1  # whose text a tool's is

# In a rendered conversation. Letters and digits alone: no template and no JSON writer changes them.
SHAPE = re.compile(r"standin(\d+)nidnats")


class StandIn(NamedTuple):
    """A part of a sample that templates print as it is, or leave out."""

    message: int  # from 0, or NO_MESSAGE
    field: str  # "text", "reasoning", "tool calls", "tools"; "" for control tokens elsewhere
    text: str


class Outline(NamedTuple):
    """A sample whose texts are replaced. White space at their ends stays: templates trim it or do not."""

    messages: Messages
    tools: Tools
    stand_ins: list[StandIn]  # by number

    def key(self) -> str:
        """Equal for samples of one shape."""
        return json.dumps([self.messages, self.tools])


def outline(sample: Sample, control: re.Pattern, kept: re.Pattern | None, kept_of: tuple[str, ...]) -> Outline:
    """`control`: the tokenizer's control tokens; `kept`: parts of texts of the roles `kept_of` that stay as they are."""
    stand_ins = []

    def stand_in(message: int, field: str, text: str) -> str:
        stand_ins.append(StandIn(message, field, text))
        return f"standin{len(stand_ins) - 1}nidnats"

    def trimmed(message: int, field: str, text: str) -> str:
        core = text.strip()
        if not core:
            return text
        start = text.index(core)
        return text[:start] + stand_in(message, field, core) + text[start + len(core) :]

    def without_control_tokens(message: int, value: Any) -> Any:
        match value:
            case str():
                return control.sub(lambda found: stand_in(message, "", found[0]), value)
            case dict():
                return {without_control_tokens(message, k): without_control_tokens(message, v) for k, v in value.items()}
            case list():
                return [without_control_tokens(message, entry) for entry in value]
        return value

    def function(message: int, field: str, columns: dict[str, Any]) -> dict[str, Any]:
        return {
            key: trimmed(message, field, value)
            if key == "name" and isinstance(value, str)
            else without_control_tokens(message, value)
            for key, value in columns.items()
        }

    def wrapped(message: int, field: str, entry: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(entry.get("function"), dict):
            return function(message, field, entry)
        return {
            name: function(message, field, value) if name == "function" else without_control_tokens(message, value)
            for name, value in entry.items()
        }

    def replaced(number: int, message: dict[str, Any]) -> dict[str, Any]:
        result = {}
        for name, value in message.items():
            if name == "role":
                result[name] = value
            elif name == "content" and isinstance(value, str):
                parts = kept.split(value) if kept and message["role"] in kept_of else [value]
                result[name] = "".join(part if i % 2 else trimmed(number, "text", part) for i, part in enumerate(parts))
            elif name == "reasoning_content":
                result[name] = trimmed(number, "reasoning", value)
            elif name == "tool_calls":
                result[name] = [wrapped(number, "tool calls", call) for call in value]
            else:
                result[name] = without_control_tokens(number, value)
        return result

    tools = [wrapped(NO_MESSAGE, "tools", tool) for tool in sample.tools]
    return Outline([replaced(*entry) for entry in enumerate(sample.messages)], tools, stand_ins)


def fill(literals: list[str], numbers: list[int], stand_ins: list[StandIn], text: str) -> list[str] | None:
    """The texts that stand in `text` for the stand-ins `numbers` between `literals`; None where they do not make it up.

    A text may stand there as JSON spells it.
    """
    texts = [stand_ins[number].text for number in numbers]
    if "".join(part for pair in zip(literals, texts) for part in pair) + literals[-1] == text:
        return texts
    position, found = 0, []
    for literal, own, following in zip(literals, texts, literals[1:]):
        if not text.startswith(literal, position):
            return None
        position += len(literal)
        fitting = [
            spelt
            for spelt in (own, json.dumps(own, ensure_ascii=False)[1:-1], json.dumps(own)[1:-1])
            if text.startswith(spelt, position) and text.startswith(following, position + len(spelt))
        ]
        if not fitting:
            return None
        found.append(fitting[0])
        position += len(fitting[0])
    return found if text[position:] == literals[-1] else None


def hidden_text(sample: Sample, text: str) -> str:
    """What is wrong with a rendered conversation that `fill` does not make up: names the first message whose text changed."""
    numbered = enumerate(sample.messages, 1)
    changed = [(number, own["role"]) for number, own in numbered if (own.get("content") or "").strip() not in text]
    what = "the texts of the messages" if not changed else f"the text of message {changed[0][0]} ({changed[0][1]})"
    return (
        f"{what} cannot be located in what the model's chat template makes of the conversation; "
        "expected a template that prints it once, in order"
    )
