"""Rows to conversations: the forms in which data sets hold them."""

from typing import Any

from idistill.messages import REASONING, Turns, joined, read_messages, read_reasoning, read_tools, said
from idistill.rows import BadRow, Row, parsed, row_columns, shown, text

LISTS = ("messages", "conversations")
PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response"),
    ("question", "answer"), ("question", "response"), ("query", "response"),
)  # fmt: skip
CONVERSATIONS = (*((name,) for name in LISTS), *PAIRS)  # the first that fits is taken
CONTEXTS = {"instruction": ("input", "context")}  # goes below the instruction
SYSTEM = ("system", "system_prompt")
TOOLS = ("tools", "functions")
ASKED_FOR = ("text", "chosen")  # taken with --form only
NAMES = list(dict.fromkeys([
    "id", "source", *LISTS, *(name for pair in PAIRS for name in pair), *CONTEXTS["instruction"], *SYSTEM, "history", *TOOLS,
    *REASONING, *ASKED_FOR,
]))  # fmt: skip
EXPECTED = "'messages', or 'prompt' and 'completion', or 'instruction' and 'output', or another form of docs/data.md"


class Fields:
    """A row's columns by the names of the forms; remembers which were taken."""

    def __init__(self, row: Row):
        self.columns = row_columns(row)
        self.reading = row.origin.reading
        self.padded = isinstance(row.content, dict)
        self._spoken_for = set(self.reading.columns.values())
        self._taken: set[str] = set()

    def _column(self, name: str) -> str | None:
        if name in self.reading.columns:
            return self.reading.columns[name] or None
        return None if name in self._spoken_for else name

    def __contains__(self, name: str) -> bool:
        return self._column(name) in self.columns

    def is_renamed(self, *names: str) -> bool:
        return any(name in self.reading.columns for name in names)

    def take(self, name: str) -> Any:
        column = self._column(name)
        self._taken.add(column)
        return self.columns.get(column)

    def text(self, name: str) -> str:
        return text(self.take(name), self._column(name))

    def texts(self, names: tuple[str, ...]) -> dict[str, str]:
        """Those that are there and say something."""
        found = {name: self.text(name) for name in names if name in self}
        return {name: own for name, own in found.items() if own.strip()}

    def are_left(self) -> bool:
        return not self.columns.keys() <= self._taken

    def untaken(self) -> list[str]:
        """Columns of the row that nothing took."""
        return [name for name in self.columns if name not in self._taken]

    def absent(self) -> list[str]:
        """Columns that the user names and the row does not have."""
        return [own for own in self.reading.columns.values() if own and own not in self.columns]


def read_text(fields: Fields) -> str | None:
    """Text without a conversation, where the user asks for it. Raises BadRow."""
    if fields.reading.form != "text":
        return None
    if "text" not in fields:
        raise BadRow(f"found {_found(fields)}; expected 'text', for --form text")
    return fields.text("text")


def read_conversation(fields: Fields) -> Turns:
    """Raises BadRow."""
    turns = _chosen(fields) if fields.reading.form == "chosen" else _turns(fields)
    if not fields.are_left():
        return turns
    system = set(fields.texts(SYSTEM).values())
    first = turns.messages[:1]
    if first and first[0]["role"] in ("system", "developer"):
        system.discard(first[0]["content"])
    elif len(system) == 1:
        turns = joined(said(("system", system.pop())), turns)
    if system:
        raise BadRow(f"the row has several system prompts, {' and '.join(map(shown, sorted(system)))} among them; expected one")
    _add_reasoning(fields, turns)
    return turns


def read_row_tools(fields: Fields) -> list[dict[str, Any]]:
    if not fields.are_left():
        return []
    found = [read_tools(fields.take(name), name, fields.padded) for name in TOOLS if name in fields]
    if sum(map(bool, found)) > 1:
        raise BadRow(f"the row has {' and '.join(map(repr, TOOLS))}; expected one of them")
    return max(found, key=len, default=[])


def _found(fields: Fields) -> str:
    return ", ".join(map(repr, fields.columns)) or "no fields"


def _turns(fields: Fields) -> Turns:
    forms = sorted(CONVERSATIONS, key=lambda names: not fields.is_renamed(*names)) if fields.reading.columns else CONVERSATIONS
    form = next((names for names in forms if all(name in fields for name in names)), None)
    if form is None:
        hints = [f"; to take '{name}' alone, give --form {name}" for name in ASKED_FOR if name in fields]
        absent = "".join(f", but not '{own}', which --columns names" for own in fields.absent())
        raise BadRow(f"found {_found(fields)}{absent}; expected {EXPECTED}{''.join(hints)}; --columns "
                     "prompt=Q,completion=A says which columns hold them")  # fmt: skip
    if len(form) == 1:
        return _list(fields, form[0])
    question, answer = form
    if isinstance(fields.take(answer), list):
        return joined(_question(fields, question), _messages(fields, answer))
    return joined(_question(fields, question), said(("assistant", fields.text(answer))))


def _messages(fields: Fields, name: str) -> Turns:
    return read_messages(fields.take(name), name, fields.reading.tags, fields.padded)


def _list(fields: Fields, name: str) -> Turns:
    turns = _messages(fields, name)
    if "chosen" in fields and turns.messages and turns.messages[-1]["role"] != "assistant":
        raise BadRow(f"'{name}' ends before an assistant answers, and 'chosen' is beside it; to take that for the answer, give "
                     "--form chosen")  # fmt: skip
    return turns


def _question(fields: Fields, name: str) -> Turns:
    """What an answer is to: nothing of it carries labels but the answers in the history."""
    history = _history(fields)
    if isinstance(fields.take(name), list):
        asked = _messages(fields, name)
        return joined(history, asked._replace(learnt=[False] * len(asked.learnt)))
    question = fields.text(name)
    context = list(fields.texts(CONTEXTS.get(name, ())).values())
    said_first = [own for own in (question, *context) if own.strip()] if context else [question]
    return joined(history, said(("user", fields.reading.between.join(said_first))))


def _history(fields: Fields) -> Turns:
    history = parsed(fields.take("history"), "history") if "history" in fields else []
    if not isinstance(history, list):
        raise BadRow(f"'history' is {shown(history)}, expected a list of pairs: what the user said, and the answer")
    turns = []
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow(f"'history' has {shown(pair)}, expected pairs: what the user said, and the answer")
        user, assistant = (text(own, f"{kind} {number} of history") for kind, own in zip(("question", "answer"), pair))
        turns += [("user", user), ("assistant", assistant)]
    return said(*turns)


def _chosen(fields: Fields) -> Turns:
    """The better of two answers; as a list of messages it may hold what it is an answer to."""
    if "chosen" not in fields:
        raise BadRow(f"found {_found(fields)}; expected 'chosen', for --form chosen")
    chosen = fields.take("chosen")
    if isinstance(chosen, str) and not chosen.lstrip().startswith("[{"):
        answer = said(("assistant", fields.text("chosen")))
    else:
        answer = read_messages([chosen] if isinstance(chosen, dict) else chosen, "chosen", fields.reading.tags, fields.padded)
        if len(answer.messages) > 1 and answer.messages[0]["role"] != "assistant":
            return answer
    for name in LISTS:
        if name in fields:
            return joined(_messages(fields, name), answer)
    for name in dict.fromkeys(question for question, _ in PAIRS):
        if name in fields:
            return joined(_question(fields, name), answer)
    raise BadRow("'chosen' is an answer alone; expected what it is an answer to in 'prompt', 'messages' or 'conversations', or in "
                 "'chosen' as a list of messages")  # fmt: skip


def _add_reasoning(fields: Fields, turns: Turns):
    """A row's reasoning is that of its answer."""
    found = {name: fields.take(name) for name in REASONING if name in fields}
    reasoning = read_reasoning(found)
    if not reasoning:
        return
    answers = [message for message in turns.messages if message["role"] == "assistant"]
    name = next(iter(found))
    if not answers or turns.messages[-1] is not answers[-1] or (len(answers) > 1 and any(own in fields for own in LISTS)):
        raise BadRow(f"'{name}' beside {len(answers)} answers; expected it in the message that it leads to, as 'reasoning_content'")
    if answers[-1].setdefault("reasoning_content", reasoning) != reasoning:
        raise BadRow(f"'{name}' differs from the reasoning of the last message; expected one of them")
