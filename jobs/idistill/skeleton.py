"""What a chat template makes of samples of one shape: where labels are, and what is left out.

Labels are on what the model would have to write: what stands in the rendered conversation after the generation prompt, up to and
with the end of the turn. A template with {% generation %} says itself what that is.
"""

import re
from bisect import bisect_left
from typing import NamedTuple

from idistill.chat_template import ChatTemplate, Rendered
from idistill.prefixes import Prefixes
from idistill.stand_ins import NO_MESSAGE, SHAPE, Outline
from idistill.turn_spans import TurnSpans

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
    unended: frozenset[int]  # of these messages, where no end of turn is written
    controls: list[Control]
    left_out: frozenset[str]  # EARLIER_REASONING, DROPPED_REASONING
    problem: str  # what the template does not take, or ""


class Skeletons:
    """Made from an outline. `control`: finds the tokenizer's control tokens; `stop`: the one that stops generation, or ""."""

    def __init__(self, template: ChatTemplate, control: re.Pattern, stop: str):
        self._template = template
        self._control = control
        self._spans = TurnSpans(template, control, stop)

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
        last = len(outline.messages) - 1
        turns = [index for index, message in enumerate(outline.messages) if message["role"] == "assistant"]
        prefixes = Prefixes(self._template, outline, full.text)
        alone = {turn: full.text if turn == last else prefixes.render(turn + 1) for turn in turns}
        problem, left_out = _left_out(outline, set(numbers), alone)
        located, unended = ({}, set()) if problem else self._turns(outline, full, prefixes, alone)
        places = _Places(full.text)
        spans = {turn: [(places.at(a), places.at(b)) for a, b in spans] for turn, spans in located.items()}
        return Skeleton(literals, numbers, spans, frozenset(unended), controls, left_out, problem)

    def _turns(
        self, outline: Outline, full: Rendered, prefixes: Prefixes, alone: dict[int, str]
    ) -> tuple[dict[int, list[tuple[int, int]]], set[int]]:
        """What carries labels, by turn that says something, and the turns without an end."""
        own = {turn: found for turn, found in self._spans.own(outline, full.text, alone).items() if found}
        if self._template.marks_generation(outline.tools):
            return _assigned(full.generated, list(alone), {turn: found[0].start() for turn, found in own.items()}), set()
        spans, unended = {}, set()
        for turn, found in own.items():
            start, end, ended = self._spans.span(outline, full.text, prefixes, alone[turn], turn, found)
            spans[turn] = [(start, end)]
            if not ended:
                unended.add(turn)
        return spans, unended


class _Places:
    """Places of a rendered outline by its character positions."""

    def __init__(self, text: str):
        found = list(SHAPE.finditer(text))
        self._starts = [own.start() for own in found]
        self._begins = [0, *(own.end() for own in found)]  # of the literals

    def at(self, position: int) -> Place:
        literal = bisect_left(self._starts, position)
        return Place(literal, position - self._begins[literal])


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
