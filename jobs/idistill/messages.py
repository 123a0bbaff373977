"""Messages of conversations as they are found, made into messages as chat templates take them."""

import json
from typing import Any, NamedTuple

from idistill.rows import BadRow, Tags, parsed, shown, text

ROLES = ("system", "developer", "user", "assistant", "tool")
CALLS = "calls"  # the role of an assistant whose text is the calls that it makes
ROLE_AND_CONTENT = Tags("role", "content", {role: role for role in ROLES} | {"function": "tool"})
FROM_AND_VALUE = Tags("from", "value", {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "function_call": CALLS, "observation": "tool", "tool": "tool",
})  # fmt: skip

REASONING = ("reasoning_content", "reasoning", "thought", "thinking")
# Whether a message carries labels, in the words of Mistral, OpenAI, axolotl, ms-swift, LLaMA-Factory and others.
LEARNT = ("trainable", "train", "training", "loss_mask", "loss", "loss_weight", "loss_scale", "weight")
NOT_LEARNT = ("masked",)  # of torchtune
LEARNT_IN_PART = ("train_detail", "training_detail")  # of axolotl
CALL_FIELDS = {"type", "id", "index", "name", "arguments"}
FIELDS = {*REASONING, *LEARNT, *NOT_LEARNT, *LEARNT_IN_PART, "tool_calls", "function_call", "name", "tool_call_id"}


class Turns(NamedTuple):
    messages: list[dict[str, Any]]
    learnt: list[bool]
    unused: set[str]  # fields of messages that nothing uses


def said(*messages: tuple[str, str]) -> Turns:
    """Of (role, text)."""
    return Turns([{"role": role, "content": content} for role, content in messages], [True] * len(messages), set())


def joined(*parts: Turns) -> Turns:
    messages = [message for part in parts for message in part.messages]
    return Turns(messages, [own for part in parts for own in part.learnt], set().union(*(part.unused for part in parts)))


def read_messages(value: Any, name: str, tags: Tags | None = None, padded: bool = False) -> Turns:
    """`padded`: structures have every field of any row, null where the row has none, as Arrow's do. Raises BadRow."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value, name)
    if not isinstance(value, list):
        raise BadRow(f"'{name}' is {shown(value)}, expected a list of objects with 'role' and 'content'")
    turns = Turns([], [], set())
    for number, message in enumerate(value, 1):
        where = f"message {number}" if name in ("messages", "conversations") else f"{name}: message {number}"
        if not isinstance(message, dict):
            raise BadRow(f"{where} is {shown(message)}, expected an object with 'role' and 'content'")
        message = {field: own for field, own in message.items() if own is not None}
        own_tags = tags or (FROM_AND_VALUE if "from" in message and "role" not in message else ROLE_AND_CONTENT)
        made = _message(message, own_tags, where, padded)
        more = message.keys() - {own_tags.role, own_tags.content}
        turns.messages.append(made)
        turns.learnt.append(_is_learnt(message, made["role"], where) if more else True)
        turns.unused.update(f"{name}.{field}" for field in more - FIELDS)
    return turns


def _message(message: dict[str, Any], tags: Tags, where: str, padded: bool) -> dict[str, Any]:
    written = message.get(tags.role)
    role = tags.roles.get(written) if isinstance(written, str) else None
    if role is None:
        raise BadRow(f"{where} has the role {shown(written)}, expected one of {', '.join(tags.roles)}")
    where = f"{where}: "
    if len(message) == 2 and tags.content in message and role != CALLS:  # of most data sets
        return {"role": role, "content": _content(message.get(tags.content), tags.content, where)}
    calls = []
    for field in ("tool_calls", "function_call"):
        if message.get(field):
            calls += read_calls(message[field], field, where, padded)
    if role == CALLS:
        role = "assistant"
        calls += read_calls(message.get(tags.content), tags.content, where, padded)
        made = {"role": role, "content": ""}
    elif calls and tags.content not in message:
        made = {"role": role, "content": ""}
    else:
        made = {"role": role, "content": _content(message.get(tags.content), tags.content, where)}
    if calls:
        made["tool_calls"] = calls
    if reasoning := read_reasoning(message, where):
        made["reasoning_content"] = reasoning
    for field in ("tool_calls", "reasoning_content"):
        if field in made and role != "assistant":
            raise BadRow(f"{where}the role {shown(written)} has {field.replace('_content', '')}, which only an assistant writes")
    for field in ("name", "tool_call_id"):
        if field in message:
            made[field] = text(message[field], field, where)
    return made


def _content(value: Any, name: str, where: str) -> str:
    """Text, or the texts of a list of parts, one behind the other."""
    if not isinstance(value, list):
        return text(value, name, where)
    texts = []
    for number, part in enumerate(value, 1):
        if isinstance(part, dict):
            part = {field: own for field, own in part.items() if own is not None}
            if part.keys() not in ({"type", "text"}, {"text"}) or part.get("type", "text") != "text":
                kind = part.get("type", ", ".join(map(str, part)) or "nothing")
                raise BadRow(f"{where}part {number} of '{name}' is of the type {shown(kind)}; expected text parts alone, as the "
                             "models read text")  # fmt: skip
            part = part["text"]
        texts.append(text(part, f"part {number} of {name}", where))
    return "".join(texts)


def read_reasoning(fields: dict[str, Any], where: str = "") -> str:
    """Empty where there is none. Raises BadRow."""
    found = {name: text(fields[name], name, where) for name in REASONING if fields.get(name)} if fields else {}
    if len(set(found.values())) > 1:
        raise BadRow(f"{where}has {' and '.join(map(repr, found))}, which differ; expected one of them")
    return next(iter(found.values()), "")


def _is_learnt(message: dict[str, Any], role: str, where: str) -> bool:
    for name in LEARNT_IN_PART:
        if message.get(name):
            raise BadRow(f"{where} has '{name}': {shown(message[name])}; a message carries labels or does not: expected 'train' alone")
    found = {}
    for name in (*LEARNT, *NOT_LEARNT):
        if name in message:
            value = message[name]
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise BadRow(f"{where} has '{name}': {shown(value)}; a message carries labels or does not: expected 0, 1, true or "
                             "false")  # fmt: skip
            found[name] = bool(value) != (name in NOT_LEARNT)
    if len(set(found.values())) > 1:
        raise BadRow(f"{where} has {' and '.join(map(repr, found))}, which contradict each other")
    learnt = next(iter(found.values()), True)
    if found and learnt and role != "assistant":
        name = next(iter(found))
        raise BadRow(f"{where} is of the role '{role}' and has '{name}': {shown(message[name])}; only what an assistant says carries "
                     "labels")  # fmt: skip
    return learnt


def read_calls(value: Any, name: str, where: str, padded: bool = False) -> list[dict[str, Any]]:
    """Calls of tools: objects, or one, or JSON of them; with arguments as an object. Raises BadRow."""
    if not isinstance(value, str | list | dict):
        raise BadRow(f"{where}'{name}' is {shown(value)}, expected calls with 'name' and 'arguments'")
    value = parsed(value, name, where)
    made = []
    for call in value if isinstance(value, list) else [value]:
        call = _json_object(call, name, where, padded)
        function = call.get("function", call)
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise BadRow(f"{where}'{name}' has {shown(call)}, expected calls of functions, with 'name' and 'arguments'")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = parsed(arguments, "arguments", f"{where}'{name}': ") if arguments.strip() else {}
        other = call.keys() - CALL_FIELDS - {"function"} | function.keys() - CALL_FIELDS
        if not isinstance(function.get("name"), str) or not function["name"] or not isinstance(arguments, dict) or other:
            raise BadRow(f"{where}'{name}' has {shown(function)}, expected 'name', a string, and 'arguments', an object")
        identity = {"id": text(call["id"], f"{name}.id", where)} if call.get("id") else {}
        made.append({"type": "function", **identity, "function": {"name": function["name"], "arguments": arguments}})
    return made


def read_tools(value: Any, name: str, padded: bool = False) -> list[dict[str, Any]]:
    """JSON schemas of functions, as chat templates take them. Raises BadRow."""
    value = parsed(value, name) if isinstance(value, str) and value.strip() else value or []
    if not isinstance(value, list):
        raise BadRow(f"'{name}' is {shown(value)}, expected a list of JSON schemas of functions")
    made = []
    for tool in value:
        tool = _json_object(tool, name, "", padded)
        if not isinstance(tool.get("function", tool).get("name") if isinstance(tool.get("function", tool), dict) else None, str):
            raise BadRow(f"'{name}' has {shown(tool)}, expected the JSON schema of a function, with its 'name'")
        made.append(tool if "function" in tool else {"type": "function", "function": tool})
    return made


def _json_object(value: Any, name: str, where: str, padded: bool) -> dict[str, Any]:
    if padded:
        value = _without_null(value)
    value = parsed(value, name, where)
    if not isinstance(value, dict):
        raise BadRow(f"{where}'{name}' has {shown(value)}, expected an object")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise BadRow(f"{where}'{name}' has {shown(value)}, which JSON cannot write ({error})") from error
    return value


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null(own) for name, own in value.items() if own is not None}
    return [_without_null(own) for own in value] if isinstance(value, list) else value
