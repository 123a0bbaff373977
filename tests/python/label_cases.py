"""Samples and what carries labels in them: for test_chat_labels.py, and for the table in docs/data.md.

    python tests/python/label_cases.py      writes the table
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "jobs"), str(Path(__file__).parent)]

import chat_models  # noqa: E402  (the paths come first)
import numpy as np  # noqa: E402
from idistill.chat_labels import ChatEncoder, Conversation, Encoded  # noqa: E402
from idistill.samples import Sample  # noqa: E402

PAGE = ROOT / "docs" / "data.md"
BEGIN, END = "<!-- made by tests/python/label_cases.py -->", "<!-- end of what label_cases.py makes -->"

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}}


def says(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


class Case(NamedTuple):
    what: str
    family: str  # of chat_models.KINDS
    messages: list[dict[str, Any]]
    labels: list[str]  # what carries labels, run by run
    tools: list[dict[str, Any]] = []
    not_learnt: tuple[int, ...] = ()  # places of messages
    remarks: int = 0
    row: dict[str, Any] | None = None  # of a file, where it is not the messages themselves

    def sample(self) -> Sample:
        return Sample("id", "s", self.messages, [i not in self.not_learnt for i in range(len(self.messages))], self.tools, [])


CASES = [
    Case("prompt and completion", "chatml", [says("user", "2+2?"), says("assistant", "4")], ["4<|im_end|>"],
         row={"prompt": "2+2?", "completion": "4"}),
    Case("instruction and output", "chatml", [says("user", "Add.\n\n2, 2"), says("assistant", "4")], ["4<|im_end|>"],
         row={"instruction": "Add.", "input": "2, 2", "output": "4"}),
    Case("plain", "chatml", [says("user", "2+2?"), says("assistant", "4")], ["4<|im_end|>"]),
    Case("two turns", "llama3", [says("user", "2+2?"), says("assistant", " 4\n"), says("user", "3+3?"), says("assistant", "6")],
         ["4<|eot_id|>", "6<|eot_id|>"]),
    Case("a turn that is not learnt", "chatml",
         [says("user", "2+2?"), says("assistant", "5"), says("user", "No."), says("assistant", "4")],
         ["4<|im_end|>"], not_learnt=(1,)),
    Case("a template that marks {% generation %}", "marked", [says("user", "2+2?"), says("assistant", "4")], ["4<|im_end|>"]),
    Case("a template that ends the last turn only", "olmo",
         [says("user", "2+2?"), says("assistant", "4"), says("user", "3+3?"), says("assistant", "6")], ["4", "6<|endoftext|>"], remarks=1),
    Case("a template that ends the last turn otherwise", "olmo3",
         [says("user", "2+2?"), says("assistant", "4"), says("user", "3+3?"), says("assistant", "6")],
         ["4<|im_end|>", "6<|endoftext|>"]),
    Case("control tokens in texts", "chatml",
         [says("user", "<|im_end|>\n<|im_start|>assistant\n5"), says("assistant", "No <|im_end|>\n<|im_start|>user\nGo")],
         ["No <|im_end|>\n<|im_start|>user\nGo<|im_end|>"], remarks=1),
    Case("no reasoning", "qwen3", [says("user", "2+2?"), says("assistant", "4"), says("user", "3+3?"), says("assistant", "6")],
         ["4<|im_end|>", "<think>\n\n</think>\n\n6<|im_end|>"]),
    Case("reasoning in the text", "qwen3", [says("user", "2+2?"), says("assistant", "<think>\nDouble.\n</think>\n\n4")],
         ["<think>\nDouble.\n</think>\n\n4<|im_end|>"]),
    Case("reasoning beside the text, also in an earlier turn", "qwen3",
         [says("user", "2+2?"), says("assistant", "4", reasoning_content="Double."), says("user", "3+3?"),
          says("assistant", "6", reasoning_content="Double too.")],
         ["4<|im_end|>", "<think>\nDouble too.\n</think>\n\n6<|im_end|>"], remarks=1),
    Case("reasoning that the template drops", "r1", [says("user", "2+2?"), says("assistant", "<think>\nDouble.\n</think>\n\n4")],
         ["\n\n4<|end|>"], remarks=1),
    Case("tools", "qwen2.5",
         [says("user", "2+2?"), says("assistant", "", tool_calls=[CALL]), says("tool", "4"), says("assistant", "It is 4.")],
         ['<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call><|im_end|>', "It is 4.<|im_end|>"], [TOOL]),
    Case("tools and reasoning", "qwen3",
         [says("user", "2+2?"), says("assistant", "", tool_calls=[CALL], reasoning_content="Add."), says("tool", "4"),
          says("assistant", "It is 4.")],
         ['<think>\nAdd.\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call><|im_end|>',
          "<think>\n\n</think>\n\nIt is 4.<|im_end|>"], [TOOL]),
    Case("tools before the last question", "mistral",
         [says("user", "2+2?"), says("assistant", "", tool_calls=[CALL | {"id": "123456789"}]), says("tool", '"4"\n'),
          says("assistant", "It is 4.")],
         ['[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": 2}}]</s>', " It is 4.</s>"], [TOOL]),
]  # fmt: skip


def encoded(case: Case, max_length: int = 2048) -> tuple[ChatEncoder, Conversation, Encoded]:
    encoder = ChatEncoder(chat_models.KINDS[case.family](), max_length)
    conversation = encoder.render(case.sample())
    return encoder, conversation, encoder.encode([conversation])[0]


def labelled(encoder: ChatEncoder, own: Encoded) -> list[str]:
    """The texts that carry labels, run by run."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], own.label_mask, [0])).astype(int)))
    return [encoder.tokenizer.decode(own.tokens[start:end]) for start, end in edges.reshape(-1, 2)]


def table() -> str:
    """Every case as the model sees it, with labels in 【】."""
    from idistill.marked_labels import BRACKETS, marked

    blocks = []
    for case in CASES:
        _, conversation, own = encoded(case)
        shown = [f"{one['role']}: " + ", ".join(f"{k} {v!r}" for k, v in one.items() if k != "role") for one in case.messages]
        shown = [line + (" (not to be learnt)" if i in case.not_learnt else "") for i, line in enumerate(shown)]
        said = [f"Said: {remark}." for remark in sorted(own.remarks)]
        title, seen = f"**{case.what[0].upper()}{case.what[1:]}** ({case.family})", marked(conversation, own, BRACKETS).splitlines()
        row = [json.dumps(case.row), ""] if case.row else []
        lines = [title, "", "```", *row, *shown, "", *seen, "```", *([""] if said else []), *said]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def main():
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
