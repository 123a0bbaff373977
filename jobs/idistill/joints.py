"""Samples in one conversation with another: the tokens that a chat template gives for both, the preamble once.

The first of them is the example: its conversation with its own system turn and tools. Behind it come the other's turns, without
their system turn and tools. Both parts are found once for every sample, and any two of them make a whole. They meet where a turn
begins, or ends, with a control token, across which no tokenizer merges.
"""

import os
from typing import NamedTuple

import numpy as np

from idistill.chat_labels import ChatEncoder, Conversation, Encoded
from idistill.chat_template import Messages
from idistill.rows import BadRow
from idistill.samples import Sample
from idistill.token_file import UNJOINED, Joint

PLAIN = "plain text, without turns"
NO_BEGINNING = "a chat template whose turns do not begin with a control token"
REFUSED = "roles that the chat template refuses in a longer conversation"
PREAMBLE = "a system turn or tools that the chat template does not write at the beginning"
OTHERWISE = "turns that the chat template writes otherwise in a longer conversation"

SYSTEM = ("system", "developer")


def _asked(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# Letters and digits alone, which templates do not change, with other ends.
FOLLOWING = _asked("question1noitseuq", "answer1rewsna")
EXAMPLE, OTHER = _asked("question2stion", "answer2swer"), _asked("question3", "answer3a")


class Joints:
    """Of the samples of an encoder. `problem`: why none of them can be joined, or ""."""

    def __init__(self, encoder: ChatEncoder):
        self._encoder = encoder
        self._template = encoder.template
        self._preambles: dict[str, str | None] = {}
        self.problem = ""
        alone, behind = self._template.written(FOLLOWING), self._template.written(EXAMPLE + FOLLOWING)
        others = [behind, self._template.written(OTHER + FOLLOWING)]
        with_system = self._template.written([{"role": "system", "content": "system4metsy"}, *FOLLOWING])
        # A system turn may end as any turn does, or stand in the midst of the turns: then no sample with one is joined.
        self._following = self._beginning_with_control(alone, [*others, with_system]) or self._beginning_with_control(alone, others)
        if not self._following:
            self.problem = NO_BEGINNING
            return
        self._example = behind.removesuffix(self._following)
        # What ends a turn and is not of the following part: put behind samples that are cut.
        ending = self._example.rpartition(EXAMPLE[1]["content"])[2]
        self._ending = encoder.encode([Conversation(ending, [], "", encoder.controls_in(ending))])[0].tokens

    def _beginning_with_control(self, alone: str, others: list[str]) -> str:
        """What is written of FOLLOWING whatever comes before it, from a control token on; "" where there is none."""
        if not alone or not all(others):
            return ""
        common = min(len(os.path.commonprefix([alone[::-1], other[::-1]])) for other in others)
        question = alone.find(FOLLOWING[0]["content"])
        starts = (start for start, token in self._encoder.controls_in(alone) if not self._encoder.takes_space_before(token))
        start = next((start for start in starts if len(alone) - common <= start < question), None)
        return "" if start is None else alone[start:]

    def of(self, sample: Sample, conversation: Conversation, encoded: Encoded) -> tuple[Joint, str]:
        """And why it cannot be joined, or "". `conversation`, `encoded`: the sample alone."""
        if self.problem:
            return UNJOINED, self.problem
        if not sample.messages:
            return UNJOINED, PLAIN
        try:
            first, why = self._first(sample, conversation.text, encoded)
            return (UNJOINED, why) if why else self._joined(first, sample, conversation.text, encoded)
        except BadRow:
            return UNJOINED, REFUSED

    def _first(self, sample: Sample, text: str, encoded: Encoded) -> tuple[int, str]:
        """The token where the turns begin."""
        lead = next((i for i, message in enumerate(sample.messages) if message["role"] not in SYSTEM), len(sample.messages))
        preamble = self._preamble(sample, lead)
        if preamble is None or not text.startswith(preamble):
            return -1, PREAMBLE
        behind = self._written(sample._replace(messages=EXAMPLE + sample.messages[lead:], tools=[]))
        first = self._tokens_before(text, len(preamble), encoded)
        if first is None or behind != self._example + text[len(preamble) :]:
            return -1, OTHERWISE
        return first, ""

    def _joined(self, first: int, sample: Sample, text: str, encoded: Encoded) -> tuple[Joint, str]:
        followed = sample._replace(messages=sample.messages + FOLLOWING, learnt=[*sample.learnt, False, False])
        whole = self._written(followed)
        if not whole.endswith(self._following):
            return UNJOINED, OTHERWISE
        end = len(whole) - len(self._following)
        if text.startswith(whole[:end]):
            kept = self._tokens_before(text, end, encoded)
            if kept is not None:
                return Joint(first, kept, _none()), ""
            return self._cut(first, encoded.tokens) if encoded.truncated else (UNJOINED, OTHERWISE)
        conversation = self._encoder.render(followed)
        controls = [control for control in conversation.controls if control[0] < end]
        example = self._encoder.encode([Conversation(whole[:end], [], "", controls)])[0]
        if example.problem:
            return UNJOINED, OTHERWISE
        tokens = self._cut(first, example.tokens)[0].whole(example.tokens) if example.truncated else example.tokens
        most = min(len(tokens), len(encoded.tokens))
        differ = np.flatnonzero(tokens[:most] != encoded.tokens[:most])
        kept = int(differ[0]) if len(differ) else most
        return Joint(first, kept, tokens[kept:]), ""

    def _cut(self, first: int, tokens: np.ndarray) -> tuple[Joint, str]:
        """A conversation that is longer than its tokens, with the end of a turn for the last of them."""
        return Joint(first, max(0, len(tokens) - len(self._ending)), self._ending), ""

    def _preamble(self, sample: Sample, lead: int) -> str | None:
        """What is written before the turns; None where it is not only there."""
        key = repr((sample.messages[:lead], sample.tools))
        if key not in self._preambles:
            if len(self._preambles) >= 1024:
                self._preambles.clear()
            try:
                whole = self._written(sample._replace(messages=sample.messages[:lead] + FOLLOWING))
                found = whole.removesuffix(self._following)
                self._preambles[key] = found if found != whole else None
            except BadRow:
                self._preambles[key] = None
        return self._preambles[key]

    def _written(self, sample: Sample) -> str:
        return self._encoder.rendered(sample)[1]

    def _tokens_before(self, text: str, place: int, encoded: Encoded) -> int | None:
        """How many tokens there are before a place of the text where a control token stands, or the text ends; None: neither."""
        if place == len(text):
            return None if encoded.truncated else len(encoded.tokens)
        return self._encoder.tokens_before_control(text, place, encoded)


def _none() -> np.ndarray:
    return np.zeros(0, np.int32)
