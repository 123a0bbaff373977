"""Rating conversations of a pool, encoded in several processes, into one rating file."""

import itertools
import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from idistill.files import find_files
from idistill.first_places import FirstPlaces
from idistill.formats import count_rows, read_file
from idistill.model_tokenizer import tokenizer_json
from idistill.rating_conversations import RatingEncoder, read_prompts
from idistill.rating_file import RatingFileWriter
from idistill.rows import BadRow, Place, Reading, Row
from idistill.samples import parse_sample
from idistill.token_file import tokenizer_sha256
from idistill.whole_files import written_whole
from idistill.workers import in_order, start_worker


class Rated(NamedTuple):
    place: Place
    id: str
    conversations: list[np.ndarray]  # one a prompt, int32; none: one is longer than the model reads
    problem: str = ""  # why it is a bad line


class Summary:
    """Counts for what is said at the end."""

    def __init__(self, prompts: int):
        self.prompts = prompts
        self.counts = Counter()
        self.bad: list[str] = []

    def add(self, rated: Rated):
        lengths = list(map(len, rated.conversations))
        self.counts.update(samples=1, tokens=sum(lengths), too_long=not lengths)

    def __str__(self) -> str:
        lines = [f"{self.counts['samples']:>12,}  samples, each with {self.prompts} rating prompts",
                 f"{self.counts['tokens']:>12,}  tokens"]  # fmt: skip
        if self.counts["too_long"]:
            lines.append(f"{self.counts['too_long']:>12,}  samples that are too long to be rated, will be quarantined")
        if self.bad:
            lines += [f"{len(self.bad):>12,}  bad lines, left out", *(f"              {bad}" for bad in self.bad)]
        return "\n".join(lines)


_encoder: RatingEncoder  # of a worker process, inherited from its parent


def _encode_rows(rows: list[Row]) -> list[Rated]:
    rated = []
    for row in rows:
        try:
            sample = parse_sample(row)
            rated.append(Rated(row.place, sample.id, _encoder.conversations(sample)))
        except BadRow as error:
            rated.append(Rated(row.place, "", [], str(error)))
    return rated


def write_ratings(
    inputs: list[Path], model: Path, out: Path, prompts: Path, ratings: int, max_bad_lines: int, workers: int,
    reading: Reading = Reading(),
) -> Summary:
    """Writes `out`. Raises ValueError or OSError where an input, the prompts or the model cannot be read, or serve for nothing."""
    global _encoder
    asked = read_prompts(prompts, ratings)
    files = find_files(inputs, reading)
    if out.resolve() in (file.path.resolve() for file in files):
        raise ValueError(f"{out}: is an input; expected another name for --out")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    _encoder = RatingEncoder(model, asked, ratings)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, start_worker, (os.getpid(),)) as executor:
        executor.submit(int).result()  # forks every worker before readers start threads
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = sum(map(count_rows, files))
        tokenizer_hash = tokenizer_sha256(tokenizer_json(model, _encoder.tokenizer))
        summary, places = Summary(len(asked)), FirstPlaces(rows)
        with (
            tqdm(total=rows, unit=" samples", disable=None) as progress,
            written_whole(out) as partial,
            h5py.File(partial, "w") as file,
        ):
            writer = RatingFileWriter(file, asked, _encoder.rating_tokens, tokenizer_hash)
            read = itertools.chain.from_iterable(map(read_file, files))
            for rated in in_order(read, _encode_rows, executor, 3 * workers):
                progress.update()
                problem = rated.problem
                if not problem and (taken := places.take(rated.id.encode(), rated.place)):
                    problem = f"the id '{rated.id}' is taken by {taken}; expected ids that differ"
                if problem:
                    summary.bad.append(f"{rated.place}: {problem}")
                    if len(summary.bad) > max_bad_lines:
                        raise ValueError("\n".join([*summary.bad, f"bad lines ({max_bad_lines} tolerated, see --max-bad-lines)"]))
                    continue
                writer.append(rated.id, rated.conversations)
                summary.add(rated)
            if not summary.counts["samples"]:
                raise ValueError(f"{', '.join(map(str, inputs))}: found no samples, expected at least one")
            writer.close()
    return summary
