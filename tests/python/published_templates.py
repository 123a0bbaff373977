"""Chat templates that models are published with, as TRL has them, each on a tiny tokenizer with the template's tokens."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import chat_models
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

FOLDER = Path(find_spec("trl").origin).parent / "chat_templates"
CONTROL = r"<\|\w+\|>|<｜[^'｜]*｜>|<(?:start_of_turn|end_of_turn|end_of_utterance)>|<turn\|>|<\|turn>|</?s>|\[/?INST\]"
TAG = r"</?think>|</?tool_call>|</?tool_response>"
STOP = {"llama": "<|eot_id|>", "cohere": "<|END_OF_TURN_TOKEN|>", "deepseek": "<｜end▁of▁sentence｜>", "gptoss": "<|return|>"}


@cache
def read(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def tokenizer(name: str, template: str = "", special: bool = True) -> PreTrainedTokenizerFast:
    """`special`: whether the template's control tokens are special tokens; otherwise BOS and EOS alone are."""
    template = template or read(name)
    stop = next((token for family, token in STOP.items() if name.startswith(family)), "<|im_end|>")
    wrapped = chat_models.wrap(chat_models.byte_level(["<|bos|>", stop]), template, "<|bos|>", stop)
    own = sorted(set(re.findall(CONTROL, template)) - {stop})
    wrapped.add_tokens([AddedToken(token, special=special, normalized=False) for token in own])
    wrapped.add_tokens([AddedToken(token, special=False, normalized=False) for token in sorted(set(re.findall(TAG, template)))])
    return wrapped
