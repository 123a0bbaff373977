"""A sample as the model sees it, with what carries labels marked."""

import numpy as np

from idistill.chat_labels import Conversation, Encoded

BRACKETS = ("\u3010", "\u3011")
GREEN = ("\x1b[32m", "\x1b[0m")


def marked(conversation: Conversation, encoded: Encoded, marks: tuple[str, str]) -> str:
    """The text of the kept tokens, its labelled runs between two marks."""
    parts, position = [], 0
    edges = np.flatnonzero(np.diff(np.concatenate(([0], encoded.label_mask, [0])).astype(int)))
    ends = encoded.ends
    for first, last in edges.reshape(-1, 2).tolist():
        start, end = int(ends[first - 1]), int(ends[last - 1])  # the first token has no label
        parts += (conversation.text[position:start], marks[0], conversation.text[start:end], marks[1])
        position = end
    last = int(ends[-1]) if len(ends) else 0
    return "".join([*parts, conversation.text[position:last]])
