"""Control tokens: those that a chat template writes are tokens, those in the text of messages are text."""

import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from idistill.chat_template import ChatTemplate

# Private characters of Unicode's last plane, which spell the template's control tokens in SpelledTokenizer.
FIRST, FILLING = 0x100000, chr(0x10FFFD)
PRIVATE = re.compile("[\U00100000-\U0010fffd]")


ID = "123456789"  # as Mistral wants them
USER = {"role": "user", "content": "x"}
TOOL_RESULT = {"role": "tool", "content": "x", "name": "x", "tool_call_id": ID}


def calling(name: str) -> dict[str, Any]:
    """A message that calls a tool."""
    call = {"type": "function", "id": ID, "function": {"name": name, "arguments": {}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


TURNS = ([USER, {"role": "assistant", "content": "x"}, USER], [USER, calling("x"), TOOL_RESULT])


def control_tokens(tokenizer, template: ChatTemplate) -> dict[str, int]:
    """Ids of the special tokens, and of added tokens that the template writes around turns and in its generation prompt.

    Tags that are no special tokens, such as <think> and </think>, enclose a part of what is said: only those around a user's text
    are control tokens.
    """
    around_user = template.written([USER])
    around = "".join([template.written([USER], True), *(template.written(messages) for messages in TURNS)])
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}

    def is_control(token) -> bool:
        text = token.content
        if token.special or text in tokenizer.all_special_tokens or text in around_user:
            return True
        tag = re.fullmatch(r"</?(\w+)>", text)
        return text in around and not (tag and {f"<{tag[1]}>", f"</{tag[1]}>"} <= added)

    return {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and is_control(token)
    }


def longest_first(texts: Iterable[str]) -> re.Pattern:
    """Finds any of the texts, the longest where several begin, as tokenizers do."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


class SpelledTokenizer:
    """A tokenizer whose control tokens are spelt in private characters: how they are spelt otherwise is text.

    A control token's spelling is as long as the token, so that places in a text stay what they are.
    """

    def __init__(self, tokenizer_json: str, tokens: dict[str, int]):
        """Raises ValueError where the tokenizer cannot be spelt otherwise."""
        from tokenizers import Tokenizer

        self._spelling = {token: chr(FIRST + i) + FILLING * (len(token) - 1) for i, token in enumerate(tokens)}
        description = json.loads(tokenizer_json)
        for token in description["added_tokens"]:
            token["content"] = self._spelt(token["content"])
        model = description["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {self._spelt(token): number for token, number in model["vocab"].items()}
        else:
            model["vocab"] = [[self._spelt(token), score] for token, score in model["vocab"]]
        if model.get("unk_token"):
            model["unk_token"] = self._spelt(model["unk_token"])
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(description))
        except Exception as error:  # tokenizers raises no other
            raise ValueError(f"the tokenizer cannot tell control tokens from text ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if wrong := [token for token, number in tokens.items() if self._tokenizer.token_to_id(self._spelt(token)) != number]:
            raise ValueError(f"the tokenizer cannot tell control tokens from text ({wrong[0]!r} has another id)")

    def _spelt(self, token: str) -> str:
        return self._spelling.get(token, token)

    def encode(self, text: str, controls: list[tuple[int, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and their character ranges. `controls`: where the template's control tokens begin, in order, and what they are.

        Raises ValueError.
        """
        if found := PRIVATE.search(text):
            raise ValueError(f"text holds U+{ord(found[0]):X} beside control tokens as text; leave this private character out")
        parts, end = [], 0
        for start, token in controls:
            parts += (text[end:start], self._spelling[token])
            end = start + len(token)
        encoding = self._tokenizer.encode("".join([*parts, text[end:]]), add_special_tokens=False)
        return np.asarray(encoding.ids, np.int32), np.asarray(encoding.offsets, np.int64).reshape(-1, 2)


def control_token_in(text: str, controls: list[tuple[int, str]], control: re.Pattern) -> str:
    """What is wrong with a rendered conversation whose control tokens are not those at `controls`, which the template wrote."""
    written = {start for start, _ in controls}
    for found in control.finditer(text):
        if found.start() not in written:
            shown = text[max(0, found.start() - 20) : found.end() + 20]
            return (
                f"the text of a message has the control token '{found[0]}', in {shown!r}; "
                "expected text without (see --control-tokens)"
            )
    return "the tokenizer makes control tokens of the text of a message; expected a tokenizer that keeps them apart"
