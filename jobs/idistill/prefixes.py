"""The beginnings of a rendered outline, long ones in short: they serve for what a template writes around their last turn."""

from bisect import bisect_right

from idistill.chat_template import ChatTemplate
from idistill.rows import BadRow
from idistill.stand_ins import SHAPE, Outline

WINDOW = 16  # messages before a turn that are rendered with it, at least


class Prefixes:
    """`text`: the whole conversation, rendered."""

    def __init__(self, template: ChatTemplate, outline: Outline, text: str):
        self._template = template
        self._outline = outline
        self._text = text
        roles = [message["role"] for message in outline.messages]
        self._lead = roles.index("user") + 1 if "user" in roles else 0  # messages with which every window begins
        following = roles[self._lead : self._lead + 1]
        self._continuing = [place for place, role in enumerate(roles) if place >= self._lead and [role] == following]

    def render(self, count: int, add_generation_prompt: bool = False) -> str:
        """The first `count` messages, maybe without some in the middle. Raises BadRow."""
        short = self._window(count, add_generation_prompt)
        if short is not None:
            return short
        return self._template.render(self._outline.messages[:count], self._outline.tools, add_generation_prompt).text

    def _window(self, count: int, add_generation_prompt: bool) -> str | None:
        """Where the template writes the messages between as it does in the whole conversation, else None."""
        found = bisect_right(self._continuing, count - WINDOW)
        first = self._continuing[found - 1] if found else 0
        if first <= self._lead:
            return None
        messages = self._outline.messages[: self._lead] + self._outline.messages[first:count]
        try:
            short = self._template.render(messages, self._outline.tools, add_generation_prompt).text
        except BadRow:
            return None
        between = [
            found for found in SHAPE.finditer(short) if first <= self._outline.stand_ins[int(found[1])].message < count - 1
        ]
        if not between or len({self._outline.stand_ins[int(found[1])].message for found in between}) < WINDOW // 4:
            return None
        return short if short[between[0].start() : between[-1].end()] in self._text else None
