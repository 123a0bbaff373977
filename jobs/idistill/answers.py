"""Answers that a model gives to the questions of samples, against the samples' own."""

import re
import string
from pathlib import Path
from typing import NamedTuple

import torch

from idistill.chat_labels import DATE
from idistill.samples import parse_sample, read_rows

STATED = "The answer is"  # what comes behind it is the answer, where a sample says so
LONGEST = 256  # tokens of an answer


class Question(NamedTuple):
    messages: list[dict[str, str]]  # before the answer
    answer: str


def read_questions(path: Path, first: int | None) -> list[Question]:
    """Of samples whose last message is an assistant's. Raises ValueError where there is none."""
    questions = [Question(sample.messages[:-1], sample.messages[-1]["content"]) for row in read_rows(path)
                 if (sample := parse_sample(row)).messages[-1]["role"] == "assistant"][:first]  # fmt: skip
    if not questions:
        raise ValueError(f"{path}: has no sample that ends with an assistant's message; expected questions with their answers")
    return questions


def normalised(answer: str) -> str:
    """As SQuAD compares answers (arXiv 1606.05250, section 6.1): without case, articles and punctuation."""
    kept = "".join(letter for letter in answer.rpartition(STATED)[2].lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


@torch.no_grad()
def exact_match(model: torch.nn.Module, tokenizer, questions: list[Question], at_once: int = 16, longest: int | None = None) -> float:
    """Share of the questions whose greedy answer, its first line where the sample's has one, is the sample's.

    `longest`: tokens of an answer; by default a quarter more than the longest sample's, and at most LONGEST.
    """
    model.eval()
    prompts = [tokenizer.apply_chat_template(own.messages, add_generation_prompt=True, date_string=DATE, return_dict=True)["input_ids"]
               for own in questions]  # fmt: skip
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
            expected = questions[row].answer.strip()
            given = text.strip() if "\n" in expected else text.strip().partition("\n")[0]
            right += normalised(given) == normalised(expected)
    return right / len(questions)
