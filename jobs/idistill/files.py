"""From what a user names to files: globs, directories, LLaMA-Factory's dataset_info.json; and what a file says of its rows.

The source of a file is its stem without what numbers shards. Where stems are equal, as many folders as tell them apart go
before them, in sources and in default ids.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from idistill import dataset_info
from idistill.model_directory import may_be_of_hub
from idistill.rows import Origin, Reading

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
# train-00000-of-00002, of Hugging Face's hub also with 16 hex digits behind it; part-00003-<uuid>.c000.snappy as Spark writes;
# shard_7; train-00003; 007_00003 as FineWeb has them
UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
SHARD = re.compile(
    rf"""(?:^|[-_.])
    (?:\d+[-_]of[-_]\d+ (?:-[0-9a-f]{{16}})? | \d{{3}}_\d{{5}} | (?:part|shard|chunk)[-_.]?\d+ (?:-{UUID})? (?:[-.]c\d+)? | 0\d{{3,}})
    (?:\.(?:snappy|zstd|gzip|gz|lz4))?$""",
    re.IGNORECASE | re.VERBOSE,
)


class File(NamedTuple):
    """To read: a file, or a directory saved by `datasets`."""

    path: Path
    origin: Origin


def find_files(inputs: Iterable[Path], reading: Reading = Reading()) -> list[File]:
    """Raises ValueError."""
    found = [(path, own) for given in inputs for path, own in _named_by(given, reading)]
    path, count = Counter(os.path.abspath(path) for path, _ in found).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{path}: given twice; expected every file once")
    paths = [Path(os.path.abspath(path)) for path, _ in found]
    named = _named_sources(paths, reading)
    sources = _told_apart([_without_shard(path) for path in paths])
    stems = _told_apart(_id_stems(paths))
    files = []
    for (path, own), whole, stem, source in zip(found, paths, stems, sources):
        plain = _without_suffixes(whole)
        longer = ["/".join(of.parts[-count:]) for of in (plain, whole) for count in range(1, len(of.parts))]
        origin = Origin(stem, tuple(dict.fromkeys([stem, *longer])), named.get(whole) or own.source or source,
                        whole in named, own.reading)  # fmt: skip
        files.append(File(path, origin))
    return files


def files_passed_over(inputs: Iterable[Path], reading: Reading = Reading()) -> list[Path]:
    """In the directories that are read: files whose names are not those of samples; hidden ones apart."""
    roots = [root for given in inputs for root, _ in _roots(given, reading) if root.is_dir() and not is_saved_dataset(root)]
    return [own for root in roots for own in _visible(root) if format_of(own)[0] not in SUFFIXES]


def format_of(path: Path) -> tuple[str, str | None]:
    """Suffix and compression."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        return path.with_suffix("").suffix.lower(), COMPRESSED[suffix]
    return suffix, None


def is_saved_dataset(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _named_by(given: Path, reading: Reading) -> list[tuple[Path, dataset_info.Entry]]:
    return [(path, entry) for root, entry in _roots(given, reading) for path in _below(root)]


def _roots(given: Path, reading: Reading) -> list[tuple[Path, dataset_info.Entry]]:
    """Files and directories that a user names."""
    plain = dataset_info.Entry(given, None, reading)
    if dataset_info.is_named(given):
        return [(entry.path, entry) for entry in dataset_info.entries(given, reading)]
    if os.path.lexists(given):
        return [(given, plain)]
    if glob.has_magic(str(given)):
        matched = sorted(map(Path, glob.glob(str(given), recursive=True)))
        if not matched:
            raise ValueError(f"{given}: matches no file")
        return [(one, plain) for one in matched]
    hint = f"; of a hub, get it first: hf download {given} --repo-type dataset --local-dir DIR" if may_be_of_hub(given) else ""
    raise ValueError(f"{given}: no such file or directory{hint}")


def _below(path: Path) -> list[Path]:
    """A file itself, a directory's files of samples; of a saved dataset the directory."""
    if not path.is_dir() or is_saved_dataset(path):
        return [path]
    found = _visible(path)
    for own in found:
        if own.name in ("state.json", "dataset_dict.json"):
            raise ValueError(f"{path}: holds a saved dataset, {own.parent}; name that")
        if own.name == "dataset_info.json":
            raise ValueError(f"{path}: holds {own}; name that file to read the data sets that it lists, or the files themselves")
    files = [own for own in found if format_of(own)[0] in SUFFIXES]
    kinds = sorted({format_of(own)[0] for own in files})
    if not files:
        raise ValueError(f"{path}: is a directory without a saved dataset and without files of samples ({', '.join(SUFFIXES)})")
    if len(kinds) > 1:
        raise ValueError(f"{path}: holds files of several kinds ({', '.join(kinds)}), perhaps of the same samples; name those to read, "
                         f"as in {path}/*{kinds[0]}")  # fmt: skip
    return files


def _visible(directory: Path) -> list[Path]:
    """Files in it and below it, but for hidden ones."""
    found = (own for own in directory.rglob("*") if not any(part.startswith(".") for part in own.relative_to(directory).parts))
    return sorted(own for own in found if own.is_file())


def _named_sources(paths: Sequence[Path], reading: Reading) -> dict[Path, str]:
    """By --source. A glob takes in what lies below a directory that it matches."""
    named: dict[Path, str] = {}
    for name, pattern in reading.sources:
        matched = {Path(os.path.abspath(own)) for own in glob.glob(pattern, recursive=True)}
        own = [path for path in paths if path in matched or not matched.isdisjoint(path.parents)]
        if not own:
            raise ValueError(f"--source {name}={pattern}: matches none of the files that are read; expected at least one")
        for path in own:
            if named.setdefault(path, name) != name:
                raise ValueError(f"{path}: --source gives it two names, {named[path]} and {name}; expected one")
    return named


def _without_suffixes(path: Path) -> Path:
    """Of a directory too, whose name may have a point: as its default ids always had it."""
    return path.with_suffix("").with_suffix("") if path.suffix.lower() in COMPRESSED else path.with_suffix("")


def _without_shard(path: Path) -> Path:
    """Where a name is nothing but a shard's number, the folder."""
    plain = _without_suffixes(path)
    stem = SHARD.sub("", plain.name)
    return plain.with_name(stem) if stem else plain.parent if plain.parent.name else plain


def _id_stems(paths: Sequence[Path]) -> list[Path]:
    """Where files in one folder differ in their suffixes alone, the whole names."""
    plain = list(map(_without_suffixes, paths))
    times = Counter(plain)
    return [whole if times[own] > 1 else own for whole, own in zip(paths, plain)]


def _told_apart(paths: Sequence[Path]) -> list[str]:
    """The last part of every path, or as many as no other path ends with."""
    names: dict[Path, str] = {}
    left, count = set(paths), 0
    while left:
        count += 1
        times = Counter(path.parts[-count:] for path in set(paths))
        own = {path for path in left if times[path.parts[-count:]] == 1 or count >= len(path.parts)}
        names |= {path: "/".join(path.parts[-count:]).replace("//", "/") for path in own}
        left -= own
    return [names[path] for path in paths]
