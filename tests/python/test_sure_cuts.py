"""Long texts: what is kept of them is what tokenising the whole text gives."""

import json
import os
import random
import time
from pathlib import Path

import chat_models
import pytest
from idistill.chat_labels import ChatEncoder
from idistill.model_tokenizer import load_tokenizer
from idistill.rows import BadRow
from idistill.samples import Sample, parse_sample, read_rows
from idistill.sure_cuts import GPT2, SureCuts
from preparing import assistant, user
from real_pool import needs_real_pool, samples_of
from tokenizers import Regex, normalizers, pre_tokenizers

with_model = pytest.mark.skipif(not os.environ.get("IDISTILL_MODEL"), reason="no SmolLM2")

# As the families publish them.
PATTERNS = {
    "gpt-2": GPT2,
    "llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "mistral": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
ADVERSARIAL = "aaA bB'sS'\n\r\n\t  12 3456.,!?/<|>()好你。，é\u0301\u00a0\u3000🙂_-"


def random_text(seed: int, length: int) -> str:
    drawn = random.Random(seed)
    return "".join(drawn.choice(ADVERSARIAL) * drawn.choice((1, 1, 1, 2, 7)) for _ in range(length))[:length]


def sample(question: str) -> Sample:
    return Sample("id", "s", [user(question), assistant("yes")], [True, True], [], [])


@pytest.mark.parametrize("family", PATTERNS)
@pytest.mark.parametrize("normaliser", [None, normalizers.NFC()])
def test_no_split_at_a_sure_place_depends_on_what_follows(family, normaliser):
    """Of random texts, every sure place: the pieces before it are those of the whole text, and end there."""
    tokenizer = chat_models.chatml().backend_tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERNS[family]), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if normaliser:
        tokenizer.normalizer = normaliser
    cuts, places = SureCuts(tokenizer.to_str()), 0
    for seed in range(30):
        text = random_text(seed, 120)
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        place = 0
        while (place := cuts.first(text, place + 1)) is not None:
            head, tail = (tokenizer.encode(part, add_special_tokens=False).ids for part in (text[:place], text[place:]))
            assert head == whole[: len(head)]
            assert tail == whole[len(head) :]
            places += 1
    assert places > 300


def test_texts_of_metaspace_are_cut_before_spaces():
    cuts = SureCuts(chat_models.llama2().backend_tokenizer.to_str())
    assert cuts.first("hello  world", 1) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"(?<=a)b|\s+"}, "behavior": "Isolated", "invert": False}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\w++|\s+"}, "behavior": "Isolated", "invert": False}},
        {"pre_tokenizer": {"type": "BertPreTokenizer"}},
        {"normalizer": {"type": "NFKC"}},
    ],
)
def test_what_is_not_proved_is_not_cut(change):
    description = json.loads(chat_models.chatml().backend_tokenizer.to_str())
    assert SureCuts(json.dumps(description)).known()
    assert not SureCuts(json.dumps(description | change)).known()


@with_model
@pytest.mark.parametrize("text", [random_text(1, 30_000), "hello world " * 3000, "x" * 30_000, "a1" * 15_000, "好" * 30_000, " " * 30_000],
                         ids=["random", "words", "one word", "digits", "no spaces", "spaces"])  # fmt: skip
def test_kept_tokens_are_those_of_the_whole_text(text):
    tokenizer = load_tokenizer(Path(os.environ["IDISTILL_MODEL"]))
    encoder = ChatEncoder(tokenizer, 300)
    conversation = encoder.render(sample("a" + text + "b"))
    whole = tokenizer(conversation.text, add_special_tokens=False, verbose=False)["input_ids"]
    (own,) = encoder.encode([conversation])
    assert own.tokens.tolist() == whole[:300] and own.truncated


@with_model
def test_long_lines_take_little_time():
    encoder = ChatEncoder(load_tokenizer(Path(os.environ["IDISTILL_MODEL"])), 2048)
    long = "hello world, and good night. " * 430_000  # 12 MB
    began = time.process_time()
    assert len(encoder.encode_sample(sample(long)).tokens) == 2048
    assert len(encoder.encode_sample(sample(long * 4)).tokens) == 2048
    assert time.process_time() - began < 5
    with pytest.raises(BadRow, match="no place where the tokenizer surely splits"):
        encoder.encode_sample(sample("x" * 12_000_000))


@with_model
@needs_real_pool
def test_tokens_of_the_real_pool_are_those_of_apply_chat_template():
    tokenizer = load_tokenizer(Path(os.environ["IDISTILL_MODEL"]))
    encoder = ChatEncoder(tokenizer, 1 << 20)
    rows = list(read_rows(samples_of("pool")))[::32]
    for row in rows:
        own = parse_sample(row)
        assert encoder.encode_sample(own).tokens.tolist() == tokenizer.apply_chat_template(own.messages, return_dict=False)
    assert len(rows) > 250
