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

from idistill.formats import count_rows, read_file
from idistill.job_inputs import Bad, BadLines, check_found, counts_table, input_files, with_own_ids
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


class Summary:
    """Counts for what is said at the end."""

    def __init__(self, prompts: int, bad: BadLines):
        self.prompts = prompts
        self.counts = Counter()
        self.bad = bad

    def add(self, rated: Rated):
        lengths = list(map(len, rated.conversations))
        self.counts.update(samples=1, tokens=sum(lengths), too_long=not lengths)

    def __str__(self) -> str:
        said = {
            "samples": f"samples, each with {self.prompts} rating prompts",
            "tokens": "tokens",
            "too_long": "samples that are too long to be rated, will be quarantined",
        }
        return counts_table([(self.counts[name], what) for name, what in said.items()], self.bad)


_encoder: RatingEncoder  # of a worker process, inherited from its parent


def _encode_rows(rows: list[Row]) -> list[Rated | Bad]:
    rated = []
    for row in rows:
        try:
            sample = parse_sample(row)
            rated.append(Rated(row.place, sample.id, _encoder.conversations(sample)))
        except BadRow as error:
            rated.append(Bad(row.place, str(error)))
    return rated


def write_ratings(
    inputs: list[Path], model: Path, out: Path, prompts: Path, ratings: int, max_bad_lines: int, workers: int,
    reading: Reading = Reading(),
) -> Summary:
    """Writes `out`. Raises ValueError or OSError where an input, the prompts or the model cannot be read, or serve for nothing."""
    global _encoder
    asked = read_prompts(prompts, ratings)
    files = input_files(inputs, out, reading)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    _encoder = RatingEncoder(model, asked, ratings)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, start_worker, (os.getpid(),)) as executor:
        executor.submit(int).result()  # forks every worker before readers start threads
        out.parent.mkdir(parents=True, exist_ok=True)
        count, rows = sum(map(count_rows, files)), itertools.chain.from_iterable(map(read_file, files))
        tokenizer_hash = tokenizer_sha256(tokenizer_json(model, _encoder.tokenizer))
        summary = Summary(len(asked), BadLines(max_bad_lines))
        with (
            tqdm(in_order(rows, _encode_rows, executor, 3 * workers), total=count, unit=" samples", disable=None) as results,
            written_whole(out) as partial,
            h5py.File(partial, "w") as file,
        ):
            writer = RatingFileWriter(file, asked, _encoder.rating_tokens, tokenizer_hash)
            for rated in with_own_ids(results, count, summary.bad):
                writer.append(rated.id, rated.conversations)
                summary.add(rated)
            check_found(summary.counts["samples"], inputs)
            writer.close()
    return summary
