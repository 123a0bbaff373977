"""Tokens and label mask of conversations: which tokens of the rendered chat template a model would have to write."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idistill.samples import BadRow, Sample

# Templates that would print today's date print the one they fall back to, so a token file does not depend on the day.
DATE = "26 Jul 2024"

# What templates do to a message's text.
TRIMS = (str, str.strip, str.rstrip, str.lstrip)

NO_MESSAGES = "no messages"
NO_ASSISTANT = "no assistant message"
NO_TEXT = "empty assistant text"
EMPTY = "empty text"
CUT_OFF = "assistant text beyond the maximum length"


class Encoded(NamedTuple):
    tokens: np.ndarray  # int32
    label_mask: np.ndarray  # uint8, of equal length
    truncated: bool
    without_labels: str  # why no token has a label; "" where one has


class Conversation(NamedTuple):
    """A rendered conversation and the character ranges that carry labels."""

    text: str
    spans: list[tuple[int, int]]
    without_labels: str


def load_tokenizer(directory: Path):
    """Raises ValueError where the directory has no tokenizer that can serve."""
    from transformers import AutoTokenizer

    if not directory.is_dir():
        raise ValueError(f"{directory}: not a directory; expected a Hugging Face model with its tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"{directory}: no tokenizer that transformers can load; expected tokenizer.json\n{error}") from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"{directory}: the tokenizer has no chat template; use an instruction-tuned model, "
            "or save a chat_template.jinja beside its tokenizer"
        )
    if not tokenizer.is_fast:
        raise ValueError(f"{directory}: the tokenizer gives no character offsets; convert it to a tokenizer.json")
    return tokenizer


def tokenizer_json(directory: Path, tokenizer) -> str:
    file = directory / "tokenizer.json"
    return file.read_text(encoding="utf-8") if file.exists() else tokenizer.backend_tokenizer.to_str()


class ChatEncoder:
    """Renders, tokenises and labels. Tokens are those of the tokenizer's apply_chat_template.

    A token that holds characters of both the template and an assistant's text carries a label.
    """

    def __init__(self, tokenizer, max_length: int):
        self._tokenizer = tokenizer
        self._max_length = max_length
        ends = {str(token) for token in tokenizer.added_tokens_decoder.values()}
        if tokenizer.bos_token != tokenizer.eos_token:
            ends.discard(tokenizer.bos_token)
        longest_first = sorted((token for token in ends if token.strip()), key=len, reverse=True)
        self._end_of_turn = re.compile(r"\s*(?:" + "|".join(map(re.escape, longest_first)) + ")")

    def render(self, sample: Sample) -> Conversation:
        """Raises BadRow where the template refuses the conversation, or hides where an assistant's text is."""
        if sample.text is not None:
            return self._of_text(sample.text)
        messages = sample.messages
        if not messages:
            return Conversation("", [], NO_MESSAGES)
        text = self._template(messages)
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            return Conversation(text, [], NO_ASSISTANT)
        located = self._locate_by_stand_ins(messages, turns, text)
        if located is None:
            located = [self._locate_by_generation_prompt(messages, turn, text) for turn in turns]
        spans = [(start, self._turn_end(text, end)) for start, end in located if text[start:end].strip()]
        return Conversation(text, spans, "" if spans else NO_TEXT)

    def _of_text(self, text: str) -> Conversation:
        """Between the tokens that the tokenizer puts before a text and the one that ends it; all of it is learnt."""
        bos, eos = self._tokenizer.bos_token, self._tokenizer.eos_token or ""
        start = bos if bos and self._tokenizer.bos_token_id in self._tokenizer("")["input_ids"] else ""
        whole = start + text + eos
        return Conversation(whole, [(0, len(whole))] if text.strip() else [], "" if text.strip() else EMPTY)

    def encode(self, conversations: list[Conversation]) -> list[Encoded]:
        if not conversations:
            return []
        batch = self._tokenizer(
            [conversation.text for conversation in conversations],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        return [
            self._label(np.asarray(tokens, np.int32), np.asarray(offsets, np.int64).reshape(-1, 2), conversation)
            for tokens, offsets, conversation in zip(batch["input_ids"], batch["offset_mapping"], conversations)
        ]

    def _template(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, date_string=DATE
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise BadRow(f"the model's chat template refuses the roles ({roles}): {error}") from error

    def _locate_by_stand_ins(self, messages, turns, text) -> list[tuple[int, int]] | None:
        """Renders with a stand-in for every assistant's text: what is around the stand-ins is the template's.

        None where putting the texts back, trimmed as templates do, does not give the rendered conversation.
        """
        rest = self._template(
            [m | {"content": _stand_in(i)} if i in turns else m for i, m in enumerate(messages)]
        )
        around = []
        for turn in turns:
            before, found, rest = rest.partition(_stand_in(turn))
            if not found:
                return None
            around.append(before)
        for trim in TRIMS:
            spans, rebuilt = [], ""
            for before, turn in zip(around, turns):
                rebuilt += before
                start = len(rebuilt)
                rebuilt += trim(messages[turn]["content"])
                spans.append((start, len(rebuilt)))
            if rebuilt + rest == text:
                return spans
        return None

    def _locate_by_generation_prompt(self, messages, turn, text) -> tuple[int, int]:
        """For templates that rewrite the text, such as those that move reasoning into a block of its own.

        The text starts where the generation prompt ends, and ends where what follows a stand-in begins.
        """
        head = self._template(messages[:turn], add_generation_prompt=True) if turn else ""
        stand_in = _stand_in(turn)
        replaced = messages[:turn] + [messages[turn] | {"content": stand_in}] + messages[turn + 1 :]
        _, found, tail = self._template(replaced).partition(stand_in)
        end = len(text) - len(tail)
        if not (turn and found and text.startswith(head) and text.endswith(tail) and len(head) <= end):
            raise BadRow(
                f"the text of message {turn + 1} (assistant) cannot be located in what the model's chat template "
                "makes of the conversation; expected a template that prints it once, in order"
            )
        return len(head), end

    def _turn_end(self, text: str, end: int) -> int:
        """The end of the end-of-turn token after `end`, or `end` where the template has none."""
        token = self._end_of_turn.match(text, end)
        return token.end() if token else end

    def _label(self, tokens: np.ndarray, offsets: np.ndarray, conversation: Conversation) -> Encoded:
        starts, ends = offsets[:, 0], offsets[:, 1]
        if len(tokens):
            # Offsets may leave out the spaces of a token: it starts where the one before ends.
            starts = np.minimum(starts, np.concatenate(([0], ends[:-1])))
        mask = np.zeros(len(tokens), np.uint8)
        for first, last in conversation.spans:
            mask[(ends > first) & (starts < last)] = 1
        mask[:1] = 0  # nothing predicts the first token
        head, kept = tokens[: self._max_length], mask[: self._max_length]
        without_labels = conversation.without_labels or ("" if kept.any() else CUT_OFF)
        return Encoded(head, kept, len(tokens) > len(head), without_labels)


def _stand_in(turn: int) -> str:
    return f"[[the text of message {turn + 1}]]"
