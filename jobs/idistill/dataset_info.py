"""LLaMA-Factory's dataset_info.json: data sets by name, with the columns and words in which they hold conversations.

Named as PATH/dataset_info.json, or PATH/dataset_info.json:NAME,NAME for some of its data sets.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from idistill.forms import NAMES
from idistill.messages import CALLS
from idistill.rows import Reading, Tags

FILE = "dataset_info.json"
# {formatting: {its name of a column: ours}}
COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output", "history": "history"},
    "sharegpt": {"messages": "conversations"},
    "openai": {"messages": "conversations"},
}
ANY = {"system": "system", "tools": "tools", "chosen": "chosen"}
WITHOUT_USE = ("rejected", "kto_tag")  # of other trainings than on answers: counted as columns that are not used
KNOWN = {"file_name", "formatting", "ranking", "columns", "tags", "split"}


class Entry(NamedTuple):
    path: Path
    source: str | None
    reading: Reading


def is_named(given: Path) -> bool:
    return given.name.partition(":")[0] == FILE


def entries(given: Path, reading: Reading) -> list[Entry]:
    """Raises ValueError and OSError."""
    name, _, wanted = given.name.partition(":")
    path = given.with_name(name)
    try:
        listed = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(listed, dict) or not listed or not all(isinstance(own, dict) for own in listed.values()) or "splits" in listed:
        raise ValueError(f"{path}: expected data sets by name, as LLaMA-Factory has them; to read a saved dataset, name its "
                         "directory")  # fmt: skip
    names = wanted.split(",") if wanted else list(listed)
    if unknown := [own for own in names if own not in listed]:
        raise ValueError(f"{path}: has no data set '{unknown[0]}'; expected some of {', '.join(listed)}")
    return [_entry(path, own, listed[own], reading) for own in names]


def _entry(path: Path, name: str, given: dict[str, Any], reading: Reading) -> Entry:
    def refuse(problem: str):
        raise ValueError(f"{path}: {name}: {problem}")

    if "file_name" not in given:
        refuse(f"has no file_name, found {', '.join(given) or 'nothing'}: it is on a hub; download it, or name the data sets "
               f"to read, as in {path}:NAME,NAME")  # fmt: skip
    file = path.parent / given["file_name"]
    if not file.exists():
        refuse(f"{file}: no such file or directory")
    if other := given.keys() - KNOWN:
        refuse(f"'{sorted(other)[0]}' cannot be followed; expected {', '.join(sorted(KNOWN))}")
    formatting, tags = given.get("formatting", "alpaca"), given.get("tags", {})
    if formatting not in COLUMNS:
        refuse(f"the formatting is '{formatting}', expected {', '.join(COLUMNS)}")
    known = COLUMNS[formatting] | ANY
    if reading.form == "text":
        known = {"prompt": "text"}  # of pre-training
    columns = given.get("columns") or {}
    if other := columns.keys() - known.keys() - set(WITHOUT_USE):
        refuse(f"the column '{sorted(other)[0]}' cannot be read; expected {', '.join(known)}")
    if given.get("ranking") and reading.form != "chosen":
        refuse("is a data set of preferences; to take the chosen answers, give --form chosen")
    # LLaMA-Factory reads the columns that are named, and no other.
    named = columns or {own: column for own, column in known.items() if own != "history" and own not in ANY}
    read = dict.fromkeys(set(NAMES) - {"id", "source"}, "") | {known[own]: column for own, column in named.items() if own in known}
    own = reading._replace(columns=read | reading.columns, tags=_tags(formatting, tags, refuse), between="\n")
    return Entry(file, name, own)


def _tags(formatting: str, given: dict[str, str], refuse) -> Tags | None:
    """None where the usual ones are meant."""
    if not given:
        return None
    words = {
        "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": CALLS, "system_tag": "system",
    }  # fmt: skip
    usual = {
        "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "observation_tag": "observation",
        "function_tag": "function_call", "system_tag": "system",
    }  # fmt: skip
    if other := given.keys() - usual.keys():
        refuse(f"the tag '{sorted(other)[0]}' is not known; expected {', '.join(usual)}")
    if formatting == "openai":
        usual |= {"role_tag": "role", "content_tag": "content"} | {own: words[own] for own in words if own != "function_tag"}
    tags = usual | given
    return Tags(tags["role_tag"], tags["content_tag"], {tags[own]: role for own, role in words.items()})
