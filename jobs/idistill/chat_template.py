"""A model's chat template: rendering conversations the same on every day, and what its code says about texts."""

import datetime
import json
import re
from typing import Any, NamedTuple

import jinja2

from idistill.rows import BadRow

# The day on which every conversation is rendered, so that a token file does not depend on when it was made.
DAY = datetime.datetime(2024, 7, 26)
DATE = DAY.strftime("%d %b %Y")  # as `date_string`, of which Llama 3's template asks

# Objects of JSON, as templates take them.
Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]


class Rendered(NamedTuple):
    text: str
    generated: list[tuple[int, int]]  # character ranges within {% generation %}


class ChatTemplate:
    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        templates = tokenizer.chat_template
        templates = list(templates.values()) if isinstance(templates, dict) else [templates]
        for template in templates:
            freeze_date(template)
        self.text_constants = frozenset().union(*map(text_constants, templates))

    def marks_generation(self, tools: Tools) -> bool:
        """Whether the template that conversations with these tools are rendered with has {% generation %}."""
        return bool(re.search(r"\{%-?\s*generation\s*-?%\}", self._tokenizer.get_chat_template(tools=tools or None)))

    def render(self, messages: Messages, tools: Tools, add_generation_prompt: bool = False) -> Rendered:
        """Raises BadRow where the template refuses the conversation."""
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            marks = self.marks_generation(tools)
            (text,), generated = render_jinja_template(
                [messages],
                tools=tools or None,
                chat_template=self._tokenizer.get_chat_template(tools=tools or None),
                add_generation_prompt=add_generation_prompt,
                return_assistant_tokens_mask=marks,
                **(self._tokenizer.special_tokens_map | {"date_string": DATE}),
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # raise_exception raises TemplateError itself, everything else a subclass.
            roles = ", ".join(message["role"] for message in messages) if type(error) is jinja2.TemplateError else ""
            shown = f"{error} (roles: {roles})" if roles else f"{error}"
            raise BadRow(f"the model's chat template cannot render the conversation: {shown}") from error
        return Rendered(text, generated[0] if marks else [])

    def written(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        """Text of a conversation with arguments of calls in either form; "" where the template refuses it."""
        for form in (messages, with_other_arguments(messages)):
            try:
                return self.render(form, [], add_generation_prompt).text
            except BadRow:
                continue
        return ""


def with_other_arguments(messages: Messages) -> Messages:
    """With arguments of calls as JSON text where they are objects, and the other way round."""
    return [
        message | {"tool_calls": [_with_other_arguments(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _with_other_arguments(call: dict[str, Any]) -> dict[str, Any]:
    if isinstance(call.get("function"), dict):
        return call | {"function": _with_other_arguments(call["function"])}
    match call.get("arguments"):
        case dict() as arguments:
            return call | {"arguments": json.dumps(arguments, ensure_ascii=False)}
        case str() as text:
            try:
                return call | {"arguments": json.loads(text)}
            except ValueError:
                return call
    return call


def freeze_date(template: str):
    """`strftime_now` in the template says DAY from now on, in this process."""
    _compiled(template).environment.globals["strftime_now"] = DAY.strftime


def _compiled(template: str) -> jinja2.Template:
    """The one that transformers keeps and renders."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(template)


def text_constants(template: str) -> frozenset[str]:
    """Strings that the template looks for in texts, such as '</think>': operands of `in`, arguments of methods and of `replace`.

    Not words, which are names of fields for the most part, nor blanks.
    """
    tree = _compiled(template).environment.parse(template)
    found = [compare.expr for compare in tree.find_all(jinja2.nodes.Compare) if compare.ops[0].op in ("in", "notin")]
    for call in tree.find_all(jinja2.nodes.Call):
        if isinstance(call.node, jinja2.nodes.Getattr):
            found += call.args
    for called in tree.find_all(jinja2.nodes.Filter):
        if called.name == "replace":
            found += called.args
    values = (node.value for node in found if isinstance(node, jinja2.nodes.Const) and isinstance(node.value, str))
    return frozenset(value for value in values if value.strip() and not value.isidentifier())
