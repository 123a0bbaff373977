"""Where what an assistant writes stands in a rendered outline: from the end of the generation prompt to the end of the turn."""

import os
import re
from collections import Counter

from idistill.chat_template import ChatTemplate
from idistill.control_tokens import TOOL_RESULT, USER, calling
from idistill.prefixes import Prefixes
from idistill.rows import BadRow
from idistill.stand_ins import SHAPE, Outline

QUESTION, ANSWER, RESULT = ("standin0nidnats", "standin1nidnats", "standin2nidnats")


class TurnSpans:
    """`control`: finds the tokenizer's control tokens; `stop`: the one that stops generation, or ""."""

    def __init__(self, template: ChatTemplate, control: re.Pattern, stop: str):
        self._control = control
        self._stop = stop
        question, answer = USER | {"content": QUESTION}, {"role": "assistant", "content": ANSWER}
        asked, prompted = template.written([question]), template.written([question], True)
        # Where no message precedes the assistant's.
        self._prompt = prompted.removeprefix(asked) if prompted.startswith(asked) else ""
        replied, called = template.written([question, answer]), template.written([question, calling(ANSWER)])
        resulted = template.written([question, calling(ANSWER), TOOL_RESULT | {"content": RESULT}])
        before = [self._prompt, _between("", QUESTION, asked), _between(ANSWER, RESULT, resulted)]
        behind = [_between(QUESTION, "", asked), _between(ANSWER, "", replied), _between(ANSWER, "", called)]
        # Control tokens with which a turn begins: no turn ends with them.
        self._beginning = set(control.findall("".join(before))) - set(control.findall("".join(behind)))

    def own(self, outline: Outline, text: str, alone: dict[int, str]) -> dict[int, list[re.Match]]:
        """Stand-ins of turns in the rendered conversation; `alone`: the conversation up to the turn.

        Not those that later turns repeat.
        """
        own = {turn: [] for turn in alone}
        left = {turn: Counter(SHAPE.findall(there)) for turn, there in alone.items()}
        for found in SHAPE.finditer(text):
            stand_in = outline.stand_ins[int(found[1])]
            if stand_in.message in own and stand_in.field and left[stand_in.message][found[1]]:
                left[stand_in.message][found[1]] -= 1
                own[stand_in.message].append(found)
        return own

    def span(
        self, outline: Outline, text: str, prefixes: Prefixes, alone: str, turn: int, own: list[re.Match]
    ) -> tuple[int, int, bool]:
        """Start, end and whether an end of turn is written. Raises BadRow where texts of other messages stand between."""
        start = self._start(text, prefixes, turn, own[0].start())
        end, ended = self._end(outline, text, alone, turn, own[-1])
        if any(outline.stand_ins[int(found[1])].message != turn for found in SHAPE.finditer(text, start, end)):
            raise _not_located(turn)
        return start, end, ended

    def _start(self, text: str, prefixes: Prefixes, turn: int, latest: int) -> int:
        """Where the generation prompt of a turn ends in the rendered conversation, or where they part."""
        if not turn:
            return self._first_start(text, latest)
        prompt = prefixes.render(turn, add_generation_prompt=True)
        before = list(SHAPE.finditer(prompt))
        begin = 0
        if before:
            begin = _end_of(before[-1][0], sum(found[0] == before[-1][0] for found in before), text, turn)
        if begin > latest:
            raise _not_located(turn)
        return begin + self._common(prompt[before[-1].end() if before else 0 :], text[begin:latest])

    def _first_start(self, text: str, latest: int) -> int:
        """Of a conversation that begins with an assistant's message, which the generation prompt may not precede whole."""
        for length in range(len(self._prompt), 0, -1):
            start = text.rfind(self._prompt[:length], 0, latest)
            if start >= 0:
                common = self._common(self._prompt, text[start:latest])
                return start + common if common else latest
        return latest

    def _common(self, prompt: str, text: str) -> int:
        """Characters at which both begin, not within a word or a tag: back to white space or the end of a control token."""
        common = len(os.path.commonprefix([prompt, text]))
        if common == min(len(prompt), len(text)):
            return common
        ends = {found.end() for found in self._control.finditer(text)}
        while common and not (
            prompt[common].isspace() or text[common].isspace() or prompt[common - 1].isspace() or common in ends
        ):
            common -= 1
        return common

    def _end(self, outline: Outline, text: str, alone: str, turn: int, last: re.Match) -> tuple[int, bool]:
        """Up to and with what ends the turn, and whether there is such a thing.

        That is the first control token behind the text, or the last one behind calls, with those directly behind it up to the one
        that stops generation; else the text that the template writes there. It stands there also where the turn is the last one,
        unless the template ends the last turn with another control token.
        """
        begin = alone.rindex(last[0]) + len(last[0])
        following = SHAPE.search(text, last.end())
        rest, other = text[last.end() : following.start() if following else len(text)], alone[begin:]
        common = len(os.path.commonprefix([rest, other]))
        for side in (rest, other):
            cut = (found.start() for found in self._control.finditer(side) if found.start() < common < found.end())
            common = next(cut, common)
        inside = list(self._control.finditer(rest[:common]))
        calls = outline.stand_ins[int(last[1])].field == "tool calls"
        ending = inside[-1 if calls else 0] if inside else None
        if ending:
            end = ending.end()
            while ending[0] != self._stop and (ending := self._control.match(rest, end, common)):
                end = ending.end()
            if not calls or end >= len(rest[:common].rstrip()):
                return last.end() + end, True
        marked = len(rest[:common].rstrip())
        if not calls:
            content = outline.messages[turn].get("content") or ""
            own = len(os.path.commonprefix([rest[:common], content[len(content.rstrip()) :]]))
            marked = own if other[marked:].strip() else max(own, marked)
        if (found := self._control.match(rest, common)) and found[0] not in self._beginning:
            return last.end() + found.end(), True
        return last.end() + marked, bool(rest[:marked].strip())


def _between(first: str, last: str, text: str) -> str:
    """What stands between two texts; "" where one is missing."""
    if first not in text or last not in text:
        return ""
    before = text.partition(last)[0] if last else text
    return before.rpartition(first)[2] if first else before


def _end_of(stand_in: str, occurrence: int, text: str, turn: int) -> int:
    """Where an occurrence, counted from 1, ends."""
    end = 0
    for _ in range(occurrence):
        start = text.find(stand_in, end)
        if start < 0:
            raise _not_located(turn)
        end = start + len(stand_in)
    return end


def _not_located(turn: int) -> BadRow:
    return BadRow(
        f"what message {turn + 1} (assistant) has to say cannot be located in what the model's chat template makes of the "
        "conversation; expected a template that prints texts once, in order"
    )
