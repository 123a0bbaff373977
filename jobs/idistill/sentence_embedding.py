"""Sentence embeddings of samples, as the embedding file in which idistill_mpi finds rows by id.

A sample is one text: what its messages say, in order, without roles, each in a line of its own. So NN-CIFT joins instruction,
input and response.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from idistill.files import File
from idistill.first_places import FirstPlaces
from idistill.formats import count_rows, read_file
from idistill.job_inputs import Bad, BadLines, check_found, counts_table, input_files
from idistill.rows import BadRow, Reading, possible_ids, row_columns
from idistill.samples import Sample, parse_sample, text_of
from idistill.sentence_model import SentenceModel
from idistill.whole_files import written_whole

FORMAT, VERSION = "idistill-embedding", 1
UNIT = 512  # texts that are kept together: what a stopped run loses at most


class Text(NamedTuple):
    ids: list[str]
    text: str


class Summary:
    """Counts for what is said at the end."""

    def __init__(self, bad: BadLines):
        self.samples = self.kept = self.truncated = self.blank = self.same = 0
        self.bad = bad

    def __str__(self) -> str:
        counts = [
            (self.samples, "samples embedded"),
            (self.kept, "of them by a run that was stopped"),
            (self.truncated, "of them longer than the model reads, and cut at the end"),
            (self.blank, "of them without text: their rows are NaN"),
            (self.same, "of the id and text of a sample before: embedded once"),
        ]
        return counts_table(counts, self.bad)


def whole_text(sample: Sample) -> str:
    texts = [sample.text] if sample.text is not None else map(text_of, sample.messages)
    return "\n".join(own for own in texts if own.strip())


def embed(
    inputs: list[Path], out: Path, model: str | None, batch_size: int, max_bad_lines: int, reading: Reading = Reading()
) -> Summary:
    """Writes `out`. Until then `out`.units keeps what is finished, from which the same call continues.

    Raises ValueError or OSError where an input or the model cannot be read.
    """
    files = input_files(inputs, out, reading)
    rows = sum(map(count_rows, files))
    encoder = SentenceModel(model, batch_size)
    units = out.with_name(out.name + ".units")
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = Summary(BadLines(max_bad_lines))
    texts = _texts(files, rows, summary)
    with (
        tqdm(total=rows, unit=" samples", disable=None) as progress,
        written_whole(out) as partial,
        h5py.File(partial, "w") as file,
    ):
        longest = f", at most {encoder.longest} tokens" if encoder.longest else ""
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["made_by"] = f"embed.py {encoder.name} ({encoder.fingerprint}): whole samples{longest}, length 1"
        width = encoder.width
        embedding = file.create_dataset("embedding", (0, width), np.float32, maxshape=(None, width), chunks=(UNIT, width))
        ids = file.create_dataset("id", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(UNIT,))
        while unit := list(islice(texts, UNIT)):
            _append(embedding, ids, unit, _vectors(encoder, unit, units, summary))
            progress.update(len(unit))
        check_found(summary.samples, inputs)
    shutil.rmtree(units)
    return summary


def _texts(files: list[File], rows: int, summary: Summary) -> Iterator[Text]:
    """Every id once. Raises ValueError."""
    taken, embedded = FirstPlaces(2 * rows), FirstPlaces(2 * rows)
    for row in (row for file in files for row in read_file(file)):
        try:
            sample = parse_sample(row)
            # In default ids, where prepare.py reads this file without the others, it has no folders before its stem.
            alone = row.origin.stem.rpartition("/")[2]
            ids = dict.fromkeys([sample.id, *possible_ids(row, row_columns(row), (alone,))])
        except BadRow as error:
            summary.bad.leave_out(Bad(row.place, str(error)))
            continue
        text = whole_text(sample)
        new = []
        for own in ids:
            same = embedded.take(f"{own}\0{text}".encode(), row.place)
            first = taken.take(own.encode(), row.place)
            if first and not same:
                raise ValueError(f"{row.place}: the id '{own}' is taken by {first}, of another text; expected ids that differ")
            new += [] if first else [own]
        if new:
            yield Text(new, text)
        else:
            summary.same += 1


def _vectors(encoder: SentenceModel, unit: list[Text], units: Path, summary: Summary) -> np.ndarray:
    """(n x width) of the unit's texts, from the file that keeps them or else put there."""
    texts = [own.text for own in unit]
    path = units / hashlib.sha256(json.dumps([encoder.fingerprint, texts]).encode()).hexdigest()[:32]
    if path.is_file():
        summary.kept += len(unit)
    else:
        vectors, truncated = encoder.embed(texts)
        units.mkdir(exist_ok=True)  # with the first unit: nothing is left of a call that is refused before
        with written_whole(path) as partial, open(partial, "wb") as file:
            np.savez(file, vectors=vectors, truncated=truncated)
    with np.load(path) as found:
        vectors = found["vectors"]
        summary.truncated += int(found["truncated"])
    summary.samples += len(unit)
    summary.blank += int(np.isnan(vectors[:, 0]).sum())
    return vectors


def _append(embedding: h5py.Dataset, ids: h5py.Dataset, unit: list[Text], vectors: np.ndarray):
    names = [own for text in unit for own in text.ids]
    start = len(ids)
    for dataset, values in ((embedding, np.repeat(vectors, [len(text.ids) for text in unit], axis=0)), (ids, names)):
        dataset.resize(start + len(names), axis=0)
        dataset[start:] = values
