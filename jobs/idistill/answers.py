"""Answers that a model gives to the questions of samples, against the samples' own."""

import re
import string
from pathlib import Path
from typing import Any, NamedTuple

import torch

from idistill.chat_template import ChatTemplate
from idistill.rows import Reading
from idistill.samples import read_samples

STATED = "The answer is"  # what comes behind it is the answer, where a sample says so
LONGEST = 256  # tokens of an answer
ARTICLES = ("a", "an", "the")


class Question(NamedTuple):
    messages: list[dict[str, Any]]  # before the answer
    answer: str
    tools: list[dict[str, Any]] = []


def read_questions(path: Path, first: int | None, reading: Reading = Reading()) -> list[Question]:
    """Of samples whose last message is an assistant's. Raises ValueError where there is none."""
    questions = [Question(sample.messages[:-1], sample.messages[-1]["content"], sample.tools)
                 for sample in read_samples(path, reading=reading)
                 if sample.messages and sample.messages[-1]["role"] == "assistant"][:first]  # fmt: skip
    if not questions:
        raise ValueError(f"{path}: has no sample that ends with an assistant's message; expected questions with their answers")
    return questions


def normalised(answer: str) -> str:
    """Of its first line, behind STATED where that is said: without case, articles and punctuation, as SQuAD compares answers (arXiv
    1606.05250, section 6.1), but an answer that is an article stays, and numbers keep sign and point."""
    said = (answer.rpartition(STATED)[2].strip().splitlines() or [""])[0].lower()
    said = re.sub(r"(?<=\d),(?=\d)", "", said)  # 1,005
    said = re.sub(r"(\d+\.\d*?)0+\b", r"\1", said)  # 18.50
    kept = re.sub(r"(?<!\d)-(?=\d)", "minus ", said)  # -3, not 4-3
    kept = re.sub(r"\.(?!\d)", " ", kept)
    kept = "".join(" " if letter in string.punctuation.replace(".", "") else letter for letter in kept)
    words = kept.split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


@torch.no_grad()
def exact_match(model: torch.nn.Module, tokenizer, questions: list[Question], at_once: int = 16, longest: int | None = None) -> float:
    """Share of the questions whose greedy answer is the sample's, and says something.

    `longest`: tokens of an answer; by default 8 and a quarter more than the longest sample's has, and at most LONGEST.
    """
    model.eval()
    template = ChatTemplate(tokenizer)
    texts = [template.render(own.messages, own.tools, add_generation_prompt=True).text for own in questions]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    if longest is None:
        lengths = [len(tokens) for tokens in tokenizer([own.answer for own in questions], add_special_tokens=False)["input_ids"]]
        longest = min(LONGEST, 8 + max(lengths) * 5 // 4)
    right, order = 0, sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), at_once):
        rows = order[start : start + at_once]
        width = max(len(prompts[row]) for row in rows)
        ids, mask = torch.zeros((2, len(rows), width), dtype=torch.long, device=model.device)  # padded on the left
        for i, row in enumerate(rows):
            ids[i, width - len(prompts[row]) :], mask[i, width - len(prompts[row]) :] = torch.tensor(prompts[row]), 1
        said = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=longest,
                              pad_token_id=tokenizer.eos_token_id)  # fmt: skip
        for row, text in zip(rows, tokenizer.batch_decode(said[:, width:], skip_special_tokens=True)):
            given = normalised(text)
            right += bool(given) and given == normalised(questions[row].answer)
    return right / len(questions)
