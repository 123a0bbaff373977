"""Conversations in which a model is asked to rate a sample, as SelectIT asks (arXiv 2402.16705): a prompt, then the sample."""

import json
import re
from pathlib import Path

import numpy as np

from idistill.chat_labels import ChatEncoder, Encoded
from idistill.model_tokenizer import load_tokenizer
from idistill.rows import BadRow, shown
from idistill.samples import Sample, text_of


def read_prompts(path: Path, ratings: int) -> list[str]:
    """One a line. Raises ValueError for one that does not say between which numbers to rate."""
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        named = re.findall(r"\d+", line)
        if "1" not in named or str(ratings) not in named:
            raise ValueError(f"{path}: line {number}: {shown(line)}: names {' and '.join(dict.fromkeys(named)) or 'no number'}; "
                             f"expected 1 and {ratings}, between which the model is to rate (--ratings)")  # fmt: skip
        prompts.append(line.strip())
    if not prompts:
        raise ValueError(f"{path}: is empty; expected a rating prompt on every line")
    return prompts


def instruction_and_response(sample: Sample) -> tuple[str, str]:
    """The last answer, and what it is an answer to: with roles where that is more than one message."""
    if sample.text is not None:
        return "", sample.text
    answers = [place for place, message in enumerate(sample.messages) if message["role"] == "assistant"]
    before, last = (sample.messages[: answers[-1]], text_of(sample.messages[answers[-1]])) if answers else (sample.messages, "")
    roles = [f"{message['role'].capitalize()}: " if len(before) > 1 else "" for message in before]
    return "\n\n".join(role + text_of(message) for role, message in zip(roles, before)), last


class RatingEncoder:
    """Rating conversations as tokens, up to where the model would write its rating.

    The place is that in which the conversation's tokens differ when an assistant's message says one rating or another, as the
    model's chat template writes it.
    """

    def __init__(self, model: Path, prompts: list[str], ratings: int):
        """Raises ValueError where the model's chat template writes no ratings, or not each of 1 to `ratings` is one token."""
        self.tokenizer = load_tokenizer(model)
        self.prompts = prompts
        self._encoder = ChatEncoder(self.tokenizer, _context(model))
        try:
            said = [self._encode([_rating_sample("Rate this.", str(rating))])[0].tokens for rating in range(1, ratings + 1)]
        except BadRow as error:
            raise ValueError(f"{model}: the chat template cannot write a question and its rating: {error}; expected another model, "
                             "or another chat_template.jinja beside its tokenizer") from error  # fmt: skip
        length = min(map(len, said))
        place = next((i for i in range(length) if len({tokens[i] for tokens in said}) > 1), length)
        alike = {(*tokens[:place].tolist(), None, *tokens[place + 1 :].tolist()) for tokens in said}
        if place == length or len({tokens[place] for tokens in said}) < ratings or len(alike) > 1:
            raise ValueError(f"{model}: the tokenizer has no token of its own for each of the ratings 1 to {ratings}; expected "
                             "fewer --ratings, with prompts for them, or another model")  # fmt: skip
        self.rating_tokens = np.array([tokens[place] for tokens in said], np.int32)
        self._tail = length - place  # tokens from the rating on

    def _encode(self, samples: list[Sample]) -> list[Encoded]:
        encoded = self._encoder.encode([self._encoder.render(sample) for sample in samples])
        for own in encoded:
            if own.problem:
                raise BadRow(own.problem)
        return encoded

    def conversations(self, sample: Sample) -> list[np.ndarray]:
        """(prompts) int32; none where one of them is longer than the model reads. Raises BadRow."""
        instruction, response = instruction_and_response(sample)
        asked = [f"{prompt}\n\nInstruction:\n{instruction}\n\nResponse:\n{response}" for prompt in self.prompts]
        encoded = self._encode([_rating_sample(text, "1") for text in asked])
        if any(own.truncated for own in encoded):
            return []
        for own in encoded:
            if own.tokens[-self._tail] != self.rating_tokens[0]:
                raise BadRow("the model's chat template does not write a rating of it where it writes others")
        return [own.tokens[: -self._tail] for own in encoded]


def _rating_sample(text: str, rating: str) -> Sample:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": rating}]
    return Sample("", "", messages, [True, True], [], [])


def _context(model: Path) -> int:
    """Tokens that it reads at most."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    found = config.get("max_position_embeddings")
    if not isinstance(found, int) or found < 1:
        raise ValueError(f"{model}/config.json: max_position_embeddings is {shown(found)}; expected a number of tokens")
    return found
