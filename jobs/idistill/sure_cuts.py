"""Places where a tokenizer surely splits a text, whatever comes behind: up to there the tokens are those of the whole text.

Proved from the tokenizer's own description. Let x and y be the characters before and behind a place, x not white space. Where no
alternative of a pattern can hold x with y behind it, no match goes across; where one alternative can match y alone, y is in some
match, which then begins at y. Matches before the place do not see what is behind it: patterns with look-around are not taken, but
for (?!\\S), which needs white space for x to matter. Byte pairs are merged within such pieces only.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import regex

# Of byte-level tokenizers, as GPT-2's.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CLASS = r"\[(?:\\.|[^\]\\])*\]|\\[pP]\{\^?\w+\}|\\.|[^\\\[\](){}|*+?.^$]"
ELEMENT = re.compile(rf"(?P<one>\((?:\?i:|\?:)?(?:{CLASS}|\|)*\)|{CLASS})(?P<times>[*+?]|\{{\d+(?:,\d*)?\}})?(?![+?*])")
END = re.compile(r"\(\?!\\S\)|\$")

FARTHEST = 300_000  # characters that are searched for a place
NEAR = 32  # characters around a place that normalisation may join


class Element(NamedTuple):
    """A part of an alternative: characters, and how often they may come."""

    matches: regex.Pattern  # one character
    optional: bool
    repeated: bool


class Alternative(NamedTuple):
    elements: list[Element]

    def holds(self, x: str, y: str) -> bool:
        """Whether it may match a text with x and y behind it."""
        for i, first in enumerate(self.elements):
            if first.matches.fullmatch(x):
                if first.repeated and first.matches.fullmatch(y):
                    return True
                for second in self.elements[i + 1 :]:
                    if second.matches.fullmatch(y):
                        return True
                    if not second.optional:
                        break
        return False

    def matches_alone(self, y: str) -> bool:
        return any(
            element.matches.fullmatch(y) and all(other.optional for other in self.elements if other is not element)
            for element in self.elements
        )


def alternatives(pattern: str) -> list[Alternative] | None:
    """Of a pattern; None where it has what is not proved here."""
    found, elements, position = [], [], 0
    while position < len(pattern):
        if pattern[position] == "|":
            found.append(Alternative(elements))
            elements, position = [], position + 1
        elif element := ELEMENT.match(pattern, position):
            one, times = element["one"], element["times"] or ""
            group = one.startswith("(")
            if group:  # its characters in any order and number: more than it matches
                flags, inner = (regex.I if "?i:" in one else 0), re.sub(r"^\((\?i:|\?:)?|\)$", "", one)
                one = "|".join(part[0] for part in re.finditer(CLASS, inner))
            else:
                flags = 0
            optional = times in ("*", "?") or times.startswith("{0")
            elements.append(Element(regex.compile(one, flags), optional, group or times not in ("", "?", "{1}")))
            position = element.end()
        elif (end := END.match(pattern, position)) and pattern[end.end() : end.end() + 1] in ("", "|"):
            if len(elements) != 1 or elements[0].matches.pattern != r"\s":
                return None
            position = end.end()
        else:
            return None
    return [*found, Alternative(elements)]


class SureCuts:
    def __init__(self, tokenizer_json: str):
        description = json.loads(tokenizer_json)
        self._normalised = _normaliser(description["normalizer"])
        self._stages = _stages(description["pre_tokenizer"])
        added = [token["content"] for token in description["added_tokens"]]
        self._in_added = {(x, y) for token in added for x, y in zip(token, token[1:])}
        self._whole_word = any(token["single_word"] for token in description["added_tokens"])
        self._unsplit = _merges_no_space_behind_text(description) if self._stages == [] else False
        self.splits_between = functools.lru_cache(1 << 16)(self._splits_between)

    def known(self) -> bool:
        """Whether anything is proved of this tokenizer."""
        if self._normalised is None or self._stages is None or self._whole_word:
            return False
        return bool(self._stages or self._unsplit)

    def first(self, text: str, least: int) -> int | None:
        """The first sure place from `least` on, or None within FARTHEST characters."""
        if not self.known():
            return None
        for place in range(max(1, least), min(len(text), least + FARTHEST)):
            x, y = text[place - 1], text[place]
            if self.splits_between(x, y) and self._normalised(text, place):
                return place
        return None

    def _splits_between(self, x: str, y: str) -> bool:
        if x.isspace() or (x, y) in self._in_added:
            return False
        if self._unsplit:
            return y == " " and x != "\u2581"
        if any(own.holds(x, y) for stage in self._stages if stage for own in stage):
            return False
        return any(y in " \u2581" if stage is None else any(own.matches_alone(y) for own in stage) for stage in self._stages)


def _normaliser(description: dict | None) -> Callable[[str, int], bool] | None:
    """Says whether normalisation leaves both sides of a place to themselves; None where that is not known."""
    kinds = [] if description is None else description.get("normalizers", [description])
    for kind in kinds:
        spaces = kind["type"] == "Replace" and kind["pattern"] == {"String": " "} and kind["content"] == "\u2581"
        if spaces or kind["type"] == "Prepend":
            continue
        if kind["type"] != "NFC":
            return None
    if not any(kind["type"] == "NFC" for kind in kinds):
        return lambda text, place: True

    def is_apart(text: str, place: int) -> bool:
        near = text[max(0, place - NEAR) : place + NEAR]
        return (
            not unicodedata.combining(text[place - 1])
            and not unicodedata.combining(text[place])
            and unicodedata.is_normalized("NFC", near)
        )

    return is_apart


def _stages(description: dict | None) -> list[list[Alternative] | None] | None:
    """Alternatives of the patterns, one after the other; None among them: splits before every space. None: not known."""
    if description is None:
        return []
    stages = []
    for kind in description.get("pretokenizers", [description]):
        match kind:
            case {"type": "Digits"}:  # by the class of single characters
                continue
            case {"type": "ByteLevel"}:
                stages += [alternatives(GPT2)] if kind.get("use_regex", True) else []
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                if (found := alternatives(pattern)) is None:
                    return None
                stages.append(found)
            case {"type": "Split", "pattern": {"String": " "}}:  # with a normaliser that leaves no space
                continue
            case {"type": "Metaspace"}:
                stages += [None] if kind.get("split", True) else []
            case _:
                return None
    return stages


def _merges_no_space_behind_text(description: dict) -> bool:
    """Of byte pairs of whole texts: whether no token holds a space behind other text, so that no merge joins the two."""
    model = description["model"]
    if model["type"] != "BPE" or model.get("dropout") or model.get("ignore_merges"):
        return False
    return not any(re.search("[^\u2581\\s]\u2581", token) for token in model["vocab"])
