"""What a chat template makes of samples of one shape: where labels are, and what is left out.

Labels are on what the model would have to write: what stands in the rendered conversation after the generation prompt, up to and
with the end of the turn. A template with {% generation %} says itself what that is.
"""

import os
import re
from typing import NamedTuple

from idistill.chat_template import ChatTemplate, Rendered
from idistill.rows import BadRow
from idistill.stand_ins import NO_MESSAGE, SHAPE, Outline

EARLIER_REASONING = "reasoning of earlier turns, which the model's chat template leaves out"
DROPPED_REASONING = "text up to </think>, which the model's chat template drops from every assistant message"

NOT_TAKEN = {
    "text": "a part of its text",
    "reasoning": "its reasoning ('reasoning_content')",
    "tool calls": "its tool calls",
}


class Place(NamedTuple):
    """A place in the template's text."""

    literal: int
    offset: int


class Control(NamedTuple):
    """A control token that the template writes."""

    literal: int
    offset: int
    token: str


class Skeleton(NamedTuple):
    literals: list[str]  # the template's text, around the stand-ins
    numbers: list[int]  # of the stand-ins, one fewer
    turns: dict[int, list[tuple[Place, Place]]]  # what carries labels, by message
    controls: list[Control]
    left_out: frozenset[str]  # EARLIER_REASONING, DROPPED_REASONING
    problem: str  # what the template does not take, or ""


class Skeletons:
    """Made from an outline. `control`: finds the tokenizer's control tokens."""

    def __init__(self, template: ChatTemplate, control: re.Pattern):
        self._template = template
        self._control = control
        self._prompt = self._generation_prompt()

    def _generation_prompt(self) -> str:
        """Where no message precedes the assistant's."""
        question = [{"role": "user", "content": "standin0nidnats"}]
        try:
            without, prompted = (self._template.render(question, [], add).text for add in (False, True))
        except BadRow:
            return ""
        return prompted.removeprefix(without) if prompted.startswith(without) else ""

    def make(self, outline: Outline) -> Skeleton:
        """Raises BadRow where the template refuses the shape."""
        full = self._template.render(outline.messages, outline.tools)
        parts = SHAPE.split(full.text)
        literals, numbers = parts[::2], list(map(int, parts[1::2]))
        controls = [
            Control(index, found.start(), found[0])
            for index, literal in enumerate(literals)
            for found in self._control.finditer(literal)
        ]
        turns = [index for index, message in enumerate(outline.messages) if message["role"] == "assistant"]
        alone = {turn: full.text if turn == len(outline.messages) - 1 else self._alone(outline, turn) for turn in turns}
        problem, left_out = _left_out(outline, set(numbers), alone)
        located = {} if problem else self._turns(outline, full, turns, alone)
        places = _Places(full.text)
        spans = {turn: [(places.at(a), places.at(b)) for a, b in spans] for turn, spans in located.items()}
        return Skeleton(literals, numbers, spans, controls, left_out, problem)

    def _alone(self, outline: Outline, turn: int) -> str:
        """The conversation up to a turn."""
        return self._template.render(outline.messages[: turn + 1], outline.tools).text

    def _turns(
        self, outline: Outline, full: Rendered, turns: list[int], alone: dict[int, str]
    ) -> dict[int, list[tuple[int, int]]]:
        own = {turn: [] for turn in turns}
        for found in SHAPE.finditer(full.text):
            stand_in = outline.stand_ins[int(found[1])]
            if stand_in.message in own and stand_in.field:
                own[stand_in.message].append(found)
        said = [turn for turn in turns if own[turn]]
        if self._template.marks_generation:
            return _assigned(full.generated, turns, {turn: own[turn][0].start() for turn in said})
        spans = {}
        for turn in said:
            start = self._start(outline, full.text, turn, own[turn][0].start())
            spans[turn] = [(start, self._end(outline, full.text, alone[turn], turn, own[turn][-1]))]
        return spans

    def _start(self, outline: Outline, text: str, turn: int, latest: int) -> int:
        """Where the generation prompt of a turn ends in the rendered conversation, or where they part."""
        if not turn:
            start = text.rfind(self._prompt, 0, latest) if self._prompt else -1
            return latest if start < 0 else start + len(self._prompt)
        prompt = self._template.render(outline.messages[:turn], outline.tools, add_generation_prompt=True).text
        before = list(SHAPE.finditer(prompt))
        begin = _end_of(before[-1][0], text, turn) if before else 0
        rest, there = prompt[before[-1].end() if before else 0 :], text[begin:latest]
        if begin > latest:
            raise _not_located(turn)
        common = len(os.path.commonprefix([rest, there]))
        if common < min(len(rest), len(there)):
            common = self._whole(rest, there, common)
        return begin + common

    def _whole(self, prompt: str, text: str, common: int) -> int:
        """Not within a word or a tag: back to white space or the end of a control token."""
        ends = {found.end() for found in self._control.finditer(text)}
        while common and not (
            prompt[common].isspace() or text[common].isspace() or prompt[common - 1].isspace() or common in ends
        ):
            common -= 1
        return common

    def _end(self, outline: Outline, text: str, alone: str, turn: int, last: re.Match) -> int:
        """Up to and with the control token that ends the turn, here and where it is the last one; else to the text's end."""
        begin = _end_of(last[0], alone, turn)
        region = os.path.commonprefix([text[last.end() :], alone[begin:]])
        calls = outline.stand_ins[int(last[1])].field == "tool calls"
        if ends := [found.end() for found in self._control.finditer(region)]:
            return last.end() + ends[-1 if calls else 0]
        if calls:
            return last.end() + len(region.rstrip())
        content = outline.messages[turn].get("content") or ""
        return last.end() + len(os.path.commonprefix([region, content[len(content.rstrip()) :]]))


class _Places:
    """Places of a rendered outline by its character positions."""

    def __init__(self, text: str):
        self._stand_ins = [found.span() for found in SHAPE.finditer(text)]

    def at(self, position: int) -> Place:
        begin = 0
        for literal, (start, end) in enumerate(self._stand_ins):
            if position <= start:
                return Place(literal, position - begin)
            begin = end
        return Place(len(self._stand_ins), position - begin)


def _end_of(stand_in: str, text: str, turn: int) -> int:
    if text.count(stand_in) != 1:
        raise _not_located(turn)
    return text.index(stand_in) + len(stand_in)


def _not_located(turn: int) -> BadRow:
    return BadRow(
        f"what message {turn + 1} (assistant) has to say cannot be located in what the model's chat template makes of the "
        "conversation; expected a template that prints texts once, in order"
    )


def _assigned(generated: list[tuple[int, int]], turns: list[int], first: dict[int, int]) -> dict[int, list[tuple[int, int]]]:
    """Marked ranges by the turn that they belong to; `first`: where turns that say something begin to."""
    spans = {turn: [] for turn in first}
    if len(generated) == len(turns):
        return {turn: [span] for turn, span in zip(turns, generated) if turn in spans}
    for start, end in generated:
        within = [turn for turn, place in first.items() if start <= place < end]
        before = [turn for turn, place in first.items() if place < end]
        for turn in within or before[-1:]:
            spans[turn].append((start, end))
    return spans


def _left_out(outline: Outline, printed: set[int], alone: dict[int, str]) -> tuple[str, frozenset[str]]:
    """What the template does not take, and what it leaves out with reason."""
    left_out, stand_ins = set(), outline.stand_ins
    for number, stand_in in enumerate(stand_ins):
        if number in printed or not stand_in.field:
            continue
        if stand_in.message == NO_MESSAGE:
            problem = "the row has 'tools', which the model's chat template does not take; expected a model that calls tools"
            return problem, frozenset()
        turn, others = stand_in.message, [other for other in stand_ins[number + 1 :] if other.message == stand_in.message]
        if turn in alone and f"standin{number}nidnats" in alone[turn]:
            left_out.add(EARLIER_REASONING)
        elif turn in alone and stand_in.field == "text" and any(other.field == "text" for other in others):
            left_out.add(DROPPED_REASONING)
        else:
            role = outline.messages[turn]["role"]
            return (
                f"message {turn + 1} ({role}): the model's chat template leaves out {NOT_TAKEN[stand_in.field]}; "
                "expected a template that takes it, or a row without it",
                frozenset(),
            )
    return "", frozenset(left_out)
