"""Tokens and label mask of conversations: which tokens of the rendered chat template a model would have to write."""

import functools
import itertools
import re
from typing import NamedTuple

import numpy as np

from idistill.chat_template import ChatTemplate, with_other_arguments
from idistill.control_tokens import SpelledTokenizer, control_token_in, control_tokens, longest_first
from idistill.messages import ROLES
from idistill.rows import BadRow
from idistill.samples import Sample
from idistill.skeleton import Skeleton, Skeletons
from idistill.stand_ins import Outline, fill, hidden_text, outline
from idistill.sure_cuts import SureCuts

NO_MESSAGES = "no messages"
NO_ASSISTANT = "no assistant message"
NO_TEXT = "empty assistant text"
EMPTY = "empty text"
NOT_LEARNT = "assistant messages that are all marked as not to be learnt"
NOT_MARKED = "assistant messages that the model's chat template does not mark with {% generation %}"
CUT_OFF = "assistant text beyond the maximum length"

CONTROL_TEXT = "control tokens in the text of messages, encoded as text"
NO_END = "assistant messages behind which the model's chat template writes no end of turn"
CONTROL_CHOICES = ("text", "refuse")

CHARACTERS_PER_TOKEN = 8  # how much of a long text is looked at first
LONGEST_UNCUT = 1 << 20  # characters of a text that is tokenised whole where no place is sure
TOO_LONG = (
    "{:,} characters, with no place where the tokenizer surely splits them behind what --max-length keeps; "
    f"expected at most {LONGEST_UNCUT:,} of such text: shorten it, or leave the row out"
)
KEPT_SHAPES, LARGEST_KEPT = 1024, 1 << 14  # outlines whose skeletons are kept, and their characters


class Encoded(NamedTuple):
    tokens: np.ndarray  # int32
    label_mask: np.ndarray  # uint8, of equal length
    truncated: bool
    without_labels: str  # why no token has a label; "" where one has
    remarks: frozenset[str] = frozenset()  # what the user has to know of, besides
    problem: str = ""  # why there are no tokens: the row is bad
    ends: np.ndarray | None = None  # of the tokens, in the rendered conversation; None where that was left behind


class Conversation(NamedTuple):
    """A rendered conversation and the character ranges that carry labels."""

    text: str
    spans: list[tuple[int, int]]
    without_labels: str
    controls: list[tuple[int, str]] = []  # where control tokens of the template begin, and which
    remarks: frozenset[str] = frozenset()


class ChatEncoder:
    """Renders, tokenises and labels. Tokens are those of the tokenizer's apply_chat_template, but for control tokens in the text of
    messages: these are text.

    A token that holds characters of both the template and an assistant's text carries a label.
    """

    def __init__(self, tokenizer, max_length: int, control_text: str = "text"):
        """`control_text`: what becomes of control tokens in the text of messages, "text" or "refuse"."""
        self.tokenizer = tokenizer
        self._max_length = max_length
        self._reach = CHARACTERS_PER_TOKEN * max_length
        self._refuses = control_text == "refuse"
        self.template = ChatTemplate(tokenizer)
        self._control = control_tokens(tokenizer, self.template)
        self._is_control = np.zeros(max([len(tokenizer), *self._control.values()]) + 1, bool)
        self._is_control[list(self._control.values())] = True
        self._control_pattern = longest_first(self._control)
        constants = self.template.text_constants
        self._constants = re.compile(f"({longest_first(constants).pattern})") if constants else None
        self._skeletons = Skeletons(self.template, self._control_pattern, tokenizer.eos_token or "")
        self._kept: dict[str, Skeleton] = {}

    @functools.cached_property
    def _spelled(self) -> SpelledTokenizer:
        return SpelledTokenizer(self.tokenizer.backend_tokenizer.to_str(), self._control)

    @functools.cached_property
    def _cuts(self) -> SureCuts:
        return SureCuts(self.tokenizer.backend_tokenizer.to_str())

    def render(self, sample: Sample) -> Conversation:
        """Raises BadRow where the template refuses the conversation, leaves out what it says, or hides where texts are."""
        if sample.text is not None:
            return self._of_text(sample.text)
        if not sample.messages:
            return Conversation("", [], NO_MESSAGES)
        sample, text = self.rendered(sample)
        # Texts that hold what the template looks for may be rewritten there: these parts of them stay in the outline.
        for kept_of in ((), ("assistant",), ROLES)[: 3 if self._constants else 1]:
            own = outline(sample, self._control_pattern, self._constants, kept_of)
            skeleton = self._skeleton(own)
            texts = fill(skeleton.literals, skeleton.numbers, own.stand_ins, text)
            if texts is not None:
                return self._conversation(sample, skeleton, texts, text)
        raise BadRow(hidden_text(sample, text))

    def rendered(self, sample: Sample) -> tuple[Sample, str]:
        """The sample with arguments of calls as the template takes them, objects or JSON text."""
        try:
            return sample, self.template.render(sample.messages, sample.tools).text
        except BadRow:
            other = with_other_arguments(sample.messages)
            if other == sample.messages:
                raise
            try:
                return sample._replace(messages=other), self.template.render(other, sample.tools).text
            except BadRow:
                pass
            raise

    def controls_in(self, text: str) -> list[tuple[int, str]]:
        """Control tokens of a text that a template wrote, and where they begin."""
        return [(found.start(), found[0]) for found in self._control_pattern.finditer(text)]

    def takes_space_before(self, token: str) -> bool:
        """Whether white space before a control token is part of it."""
        return self.tokenizer.added_tokens_decoder[self._control[token]].lstrip

    def tokens_before_control(self, text: str, place: int, encoded: Encoded) -> int | None:
        """How many tokens of the text stand before the control token at this place; None where there is none.

        By the control token's own place: those of other tokens may leave out white space.
        """
        control = self._control_pattern.match(text, place)
        if control is None:
            return None
        found = np.flatnonzero((encoded.ends == control.end()) & (encoded.tokens == self._control[control[0]]))
        return int(found[0]) if len(found) else None

    def _of_text(self, text: str) -> Conversation:
        """Between the tokens that the tokenizer puts before a text and the one that ends it; all of it is learnt."""
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token or ""
        start = bos if bos and self.tokenizer.bos_token_id in self.tokenizer("")["input_ids"] else ""
        whole = start + text + eos
        controls = [(place, token) for place, token in ((0, start), (len(start) + len(text), eos)) if token]
        return Conversation(whole, [(0, len(whole))] if text.strip() else [], "" if text.strip() else EMPTY, controls)

    def _skeleton(self, own: Outline) -> Skeleton:
        key = own.key()
        if skeleton := self._kept.get(key):
            return skeleton
        skeleton = self._skeletons.make(own)
        if len(key) < LARGEST_KEPT:
            if len(self._kept) >= KEPT_SHAPES:
                self._kept.clear()
            self._kept[key] = skeleton
        return skeleton

    def _conversation(self, sample: Sample, skeleton: Skeleton, texts: list[str], text: str) -> Conversation:
        if skeleton.problem:
            raise BadRow(skeleton.problem)
        starts = [0]  # of the template's literals
        for literal, own in zip(skeleton.literals, texts):
            starts.append(starts[-1] + len(literal) + len(own))
        controls = [(starts[control.literal] + control.offset, control.token) for control in skeleton.controls]
        spans = [
            (starts[first.literal] + first.offset, starts[last.literal] + last.offset)
            for turn, located in sorted(skeleton.turns.items())
            if sample.learnt[turn]
            for first, last in located
            if first != last
        ]
        without_labels = ""
        if not spans:
            without_labels = _without_labels(sample, skeleton)
        unended = any(sample.learnt[turn] for turn in skeleton.unended)
        return Conversation(text, spans, without_labels, controls, skeleton.left_out | ({NO_END} if unended else set()))

    def encode_sample(self, sample: Sample) -> Encoded:
        """Raises BadRow."""
        encoded = self.encode([self.render(sample)])[0]
        if encoded.problem:
            raise BadRow(encoded.problem)
        return encoded

    def encode(self, conversations: list[Conversation]) -> list[Encoded]:
        """Of every conversation the first max_length tokens."""
        heads = [self._head(conversation.text, self._reach) for conversation in conversations]
        batch = self._tokenise([head or "" for head in heads])
        return [
            _bad(TOO_LONG.format(len(conversation.text))) if head is None else self._encoded(conversation, head, *tokenised)
            for conversation, head, tokenised in zip(conversations, heads, batch)
        ]

    def _head(self, text: str, least: int) -> str | None:
        """A text's beginning, up to a place behind `least` where its tokens are surely those of the whole; None: there is none."""
        if len(text) <= 2 * least:
            return text
        place = self._cuts.first(text, least)
        if place is None:
            return text if len(text) <= LONGEST_UNCUT else None
        return text[:place]

    def _tokenise(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokens and their character ranges."""
        if not texts:
            return []
        batch = self.tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        return [
            (np.asarray(tokens, np.int32), _pairs(offsets))
            for tokens, offsets in zip(batch["input_ids"], batch["offset_mapping"])
        ]

    def _encoded(self, conversation: Conversation, head: str, tokens: np.ndarray, offsets: np.ndarray) -> Encoded:
        least, text, remarks = self._reach, conversation.text, conversation.remarks
        while len(tokens) < self._max_length and len(head) < len(text):
            least *= 4
            if (head := self._head(text, least)) is None:
                return _bad(TOO_LONG.format(len(text)))
            ((tokens, offsets),) = self._tokenise([head])
        kept = slice(self._max_length)
        if not self._as_written(tokens[kept], offsets[kept], conversation.controls):
            forged = control_token_in(text, conversation.controls, self._control_pattern)
            if self._refuses:
                return _bad(forged)
            try:
                tokens, offsets = self._spelled.encode(head, [own for own in conversation.controls if own[0] < len(head)])
            except ValueError as error:
                return _bad(f"{forged}; {error}")
            if not self._as_written(tokens[kept], offsets[kept], conversation.controls):
                return _bad(forged)
            remarks = remarks | {CONTROL_TEXT}
        mask = _label_mask(offsets, conversation.spans)
        without_labels = conversation.without_labels or ("" if mask[kept].any() else CUT_OFF)
        truncated = len(tokens) > self._max_length or len(head) < len(text)
        return Encoded(tokens[kept], mask[kept], truncated, without_labels, remarks, ends=offsets[kept, 1])

    def _as_written(self, tokens: np.ndarray, offsets: np.ndarray, controls: list[tuple[int, str]]) -> bool:
        """Whether the control tokens among the tokens are those that the template wrote."""
        found = np.flatnonzero(self._is_control[tokens])
        end = offsets[-1, 1] if len(offsets) else 0
        written = [(start, start + len(own), self._control[own]) for start, own in controls if start + len(own) <= end]
        if len(found) != len(written):
            return False
        read = zip(tokens[found].tolist(), offsets[found].tolist())
        return all(
            token == number and first <= start and end <= last
            for (token, (first, last)), (start, end, number) in zip(read, written)
        )


def _without_labels(sample: Sample, skeleton: Skeleton) -> str:
    """Why a conversation has none."""
    if all(message["role"] != "assistant" for message in sample.messages):
        return NO_ASSISTANT
    if not skeleton.turns:
        return NO_TEXT
    return NOT_MARKED if any(sample.learnt[turn] for turn in skeleton.turns) else NOT_LEARNT


def _pairs(offsets: list[tuple[int, int]]) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(offsets), np.int64, 2 * len(offsets)).reshape(-1, 2)


def _label_mask(offsets: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    starts, ends = offsets[:, 0], offsets[:, 1]
    if len(offsets):
        # Offsets may leave out the spaces of a token: it starts where the one before ends.
        starts = np.minimum(starts, np.concatenate(([0], ends[:-1])))
    mask = np.zeros(len(offsets), np.uint8)
    for first, last in spans:
        mask[(ends > first) & (starts < last)] = 1
    mask[:1] = 0  # nothing predicts the first token
    return mask


def _bad(problem: str) -> Encoded:
    return Encoded(np.zeros(0, np.int32), np.zeros(0, np.uint8), False, "", problem=problem)
