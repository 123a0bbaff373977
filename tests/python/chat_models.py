"""Tiny tokenizers with the chat templates of well-known model families, made from nothing."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "What is the capital of France? The capital of France is Paris.",
    "def f(x):\n    return x + 1\n\n\nprint(f(2))",
    "system user assistant You are a helpful assistant. Thank you, goodbye and good night!",
    "Ein schöner Tag. 你好，世界。 hello hello world world 🙂",
]

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if loop.first and strftime_now is defined and not date_string is defined %}"
    "{{ strftime_now('%d %b %Y') }}{% endif %}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Moves the reasoning of the last answer into a block of its own and drops that of earlier ones, as Qwen3 does.
REASONING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% set content = message['content'] %}{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if message['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Qwen 2.5's and Qwen 3's way with tools: their schemas in the system turn, calls as JSON in tags, results in a user's turn.
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ '# Tools\n<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}"
    "{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
)
CALLS = (
    "{% for call in message.tool_calls or [] %}{% if call.function %}{% set call = call.function %}{% endif %}"
    "{% if content or not loop.first %}{{ '\n' }}{% endif %}"
    "{{ '<tool_call>\n{\"name\": \"' + call.name + '\", \"arguments\": ' + call.arguments | tojson + '}\n</tool_call>' }}"
    "{% endfor %}"
)
RESULT = (
    "{% if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
)
QWEN25 = TOOLS + (
    "{% for message in messages %}{% set content = message.content or '' %}{% if message.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' + content }}" + CALLS + "{{ '<|im_end|>\n' }}"
    "{% elif message.role == 'tool' %}" + RESULT + "{% elif not (message.role == 'system' and loop.first) %}"
    "{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Reasoning stays in turns after the last question of a user, who does not answer with a tool's result.
QWEN3 = TOOLS + (
    "{% set ns = namespace(last=-1) %}{% for message in messages %}{% if message.role == 'user' and not "
    "(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}{% set content = message.content or '' %}{% if message.role == 'assistant' %}"
    "{% set thought = message.reasoning_content or '' %}{% if not thought and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}{% else %}{{ content }}{% endif %}"
    + CALLS + "{{ '<|im_end|>\n' }}"
    "{% elif message.role == 'tool' %}" + RESULT + "{% elif not (message.role == 'system' and loop.first) %}"
    "{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Tools stand before the last question, calls end their turn, ids of calls have nine letters.
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(last=-1) %}{% for message in messages %}{% if message.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}{% if message.role == 'user' %}"
    "{% if tools and loop.index0 == ns.last %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' }}{% if messages[0].role == 'system' and loop.index0 == ns.last %}{{ messages[0].content + '\n\n' }}"
    "{% endif %}"
    "{{ message.content + '[/INST]' }}{% elif message.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for call in message.tool_calls %}"
    "{% if not call.id or call.id | length != 9 %}{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}"
    "{% endif %}{{ call.function | tojson }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content | trim + eos_token }}{% elif message.role == 'tool' %}"
    "{{ '[TOOL_RESULTS] {\"content\": ' + message.content | tojson + '}[/TOOL_RESULTS]' }}{% endif %}{% endfor %}"
)
# Ends the last turn only.
OLMO = (
    "{{ bos_token }}{% for message in messages %}{% if message.role != 'assistant' %}"
    "{{ '<|' + message.role + '|>\n' + message.content + '\n' }}{% else %}{{ '<|assistant|>\n' + message.content }}"
    "{% if loop.last %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# Ends the last turn with another token than earlier ones.
OLMO3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    "{% if message.role == 'assistant' and loop.last %}{{ eos_token }}{% else %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Asks for reasoning in its generation prompt and drops it from every turn.
R1 = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ '<|User|>' + message.content }}"
    "{% elif message.role == 'assistant' %}{% set content = message.content %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
# Marks itself what a model writes.
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chatml() -> PreTrainedTokenizerFast:
    return wrap(byte_level(["<|im_start|>", "<|im_end|>"]), CHATML, "<|im_start|>", "<|im_end|>")


def reasoning() -> PreTrainedTokenizerFast:
    return wrap(byte_level(["<|im_start|>", "<|im_end|>"]), REASONING, None, "<|im_end|>")


def llama3() -> PreTrainedTokenizerFast:
    specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return wrap(byte_level(specials), LLAMA3, "<|begin_of_text|>", "<|eot_id|>")


def llama2() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = description["added_tokens"][:3]  # bytes are no special tokens
    return wrap(Tokenizer.from_str(json.dumps(description)), LLAMA2, "<s>", "</s>")


def _of_chatml(template: str, *words: str):
    def make() -> PreTrainedTokenizerFast:
        wrapped = wrap(byte_level(["<|im_start|>", "<|im_end|>"]), template, None, "<|im_end|>")
        wrapped.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
        return wrapped

    return make


def _r1() -> PreTrainedTokenizerFast:
    """Roles' tokens are not special, as published tokenizers of DeepSeek-R1-Distill have it."""
    wrapped = wrap(byte_level(["<|begin|>", "<|end|>"]), R1, "<|begin|>", "<|end|>")
    wrapped.add_tokens([AddedToken(word, special=False, normalized=False) for word in ("<|User|>", "<|Assistant|>", "<think>", "</think>")])
    return wrapped


def _of_specials(template: str, bos: str, eos: str, *others: str):
    return lambda: wrap(byte_level([bos, eos, *others]), template, bos, eos)


ALL = {"chatml": chatml, "llama2": llama2, "llama3": llama3, "reasoning": reasoning}
KINDS = ALL | {
    "qwen2.5": _of_chatml(QWEN25, "<tool_call>", "</tool_call>"),
    "qwen3": _of_chatml(QWEN3, "<tool_call>", "</tool_call>", "<think>", "</think>"),
    "marked": _of_chatml(MARKED),
    "mistral": _of_specials(MISTRAL, "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
                            "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    "olmo": _of_specials(OLMO, "<|endoftext|>", "<|endoftext|>"),
    "olmo3": _of_specials(OLMO3, "<|endoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "r1": _r1,
}  # fmt: skip


def save(name: str, directory: Path) -> Path:
    KINDS[name]().save_pretrained(directory)
    return directory


def byte_level(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wrap(tokenizer: Tokenizer, template: str, bos: str | None, eos: str) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    wrapped.chat_template = template
    return wrapped
