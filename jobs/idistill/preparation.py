"""Preparing a pool: samples of many files, encoded in several processes, into one token file."""

import itertools
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from idistill.chat_labels import ChatEncoder, Encoded
from idistill.files import files_passed_over
from idistill.first_places import FirstPlaces
from idistill.formats import count_rows, read_file
from idistill.job_inputs import Bad, BadLines, check_found, input_files, with_own_ids
from idistill.joints import Joints
from idistill.model_tokenizer import load_tokenizer, tokenizer_json
from idistill.rows import BadRow, Place, Reading, Row
from idistill.samples import parse_sample
from idistill.token_file import UNJOINED, Joint, TokenFileWriter, tokenizer_sha256
from idistill.workers import in_order, start_worker

NAMED = 5  # files, in the closing table
SHOWN = 3  # samples that are there twice, in the closing table


class Prepared(NamedTuple):
    place: Place
    id: str
    source: str
    encoded: Encoded
    unused: list[str]  # columns
    absent: list[str]  # columns that the user names
    joint: Joint
    not_joined: str  # why it cannot stand in one conversation with another; "" where it can


class Summary:
    """Counts for the closing table."""

    def __init__(self, bad: BadLines):
        self.bad = bad
        self.without_rows: list[Path] = []
        self.passed_over: list[Path] = []  # files of directories
        self._sources: defaultdict[str, Counter] = defaultdict(Counter)
        self._reasons = Counter()
        self._unused = Counter()
        self._absent = Counter()
        self._repeated: list[tuple[Place, Place]] = []
        self._repetitions = 0
        self._remarks = Counter()
        self._not_joined = Counter()

    def samples(self) -> int:
        return sum(counts["samples"] for counts in self._sources.values())

    def add_repeated(self, place: Place, first: Place):
        self._repetitions += 1
        if len(self._repeated) < SHOWN:
            self._repeated.append((place, first))

    def add(self, prepared: Prepared):
        encoded = prepared.encoded
        self._unused.update(prepared.unused)
        self._absent.update(prepared.absent)
        self._sources[prepared.source].update(
            samples=1,
            tokens=len(encoded.tokens),
            labels=int(encoded.label_mask.sum()),
            truncated=encoded.truncated,
            unlabelled=bool(encoded.without_labels),
        )
        if encoded.without_labels:
            self._reasons[encoded.without_labels] += 1
        elif prepared.not_joined:
            self._not_joined[prepared.not_joined] += 1
        self._remarks.update(encoded.remarks)

    def check_named(self):
        """Raises ValueError for a column that the user names and no sample has."""
        for name, count in self._absent.items():
            if count == self.samples():
                raise ValueError(f"no row has a column '{name}'; expected those that --columns, or dataset_info.json, names")

    def __str__(self) -> str:
        columns = ["samples", "tokens", "labels", "truncated", "unlabelled"]
        total = sum(self._sources.values(), Counter())
        rows = [["source", "samples", "tokens", "label tokens", "truncated", "without labels"]]
        for source, counts in [*sorted(self._sources.items()), ("total", total)]:
            rows.append([source] + [f"{counts[name]:,}" for name in columns])
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            "  ".join([row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])])
            for row in rows
        ]
        rule = "-" * len(lines[0])
        lines = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
        if self._reasons:
            lines += ["", f"Without labels, will be quarantined: {total['unlabelled']:,}"]
            lines += [f"  {count:,}  {reason}" for reason, count in self._reasons.most_common()]
        if self._unused:
            unused = ", ".join(f"{name} ({count:,} rows)" for name, count in self._unused.most_common())
            lines += ["", f"Columns not used: {unused}"]
        if self._absent:
            absent = ", ".join(f"{name} ({count:,} rows)" for name, count in self._absent.most_common())
            lines += ["", f"Columns that are named and not there: {absent}"]
        if self._repetitions:
            lines += ["", f"Same tokens and labels as an earlier sample, kept: {self._repetitions:,}"]
            lines += [f"  {place}: as {first}" for place, first in self._repeated]
            lines += ["  ..."] if self._repetitions > len(self._repeated) else []
        if self.without_rows:
            lines += ["", f"Files without rows: {', '.join(map(str, self.without_rows))}"]
        if self.passed_over:
            more = f" and {len(self.passed_over) - NAMED:,} more" if len(self.passed_over) > NAMED else ""
            lines += ["", f"Files not read, which are not named as samples: {', '.join(map(str, self.passed_over[:NAMED]))}{more}"]
        if self._remarks:
            lines += ["", "Samples with"]
            lines += [f"  {count:,}  {remark}" for remark, count in sorted(self._remarks.items())]
        if self._not_joined:
            lines += ["", "Cannot stand in one conversation with another sample, for --influence delift"]
            lines += [f"  {count:,}  {reason}" for reason, count in self._not_joined.most_common()]
        if self.bad:
            lines += ["", f"Bad lines, left out: {len(self.bad):,}", *(f"  {bad}" for bad in self.bad)]
        return "\n".join(lines)


_encoder: ChatEncoder  # of a worker process, inherited from its parent
_joints: Joints


def _encode_rows(rows: list[Row]) -> list[Prepared | Bad]:
    samples, conversations, results = [], [], []
    for row in rows:
        try:
            sample = parse_sample(row)
            conversations.append(_encoder.render(sample))
            samples.append(sample)
            results.append(None)
        except BadRow as error:
            results.append(Bad(row.place, str(error)))
    encoded = iter(zip(samples, conversations, _encoder.encode(conversations)))
    for position, row in enumerate(rows):
        if results[position] is None:
            sample, conversation, tokens = next(encoded)
            if tokens.problem:
                results[position] = Bad(row.place, tokens.problem)
                continue
            joint = (UNJOINED, "") if tokens.without_labels else _joints.of(sample, conversation, tokens)
            results[position] = Prepared(
                row.place, sample.id, sample.source, tokens._replace(ends=None), sample.unused, sample.absent, *joint
            )
    return results


def prepare(
    inputs: list[Path], model: Path, out: Path, max_length: int, max_bad_lines: int, workers: int, reading: Reading = Reading(),
    control_tokens: str = "text",
) -> Summary:
    """Writes `out`. Raises ValueError (Refused for bad lines) or OSError where an input or the model cannot be read."""
    global _encoder, _joints
    files = input_files(inputs, out, reading)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    tokenizer = load_tokenizer(model)
    _encoder = ChatEncoder(tokenizer, max_length, control_tokens)
    _joints = Joints(_encoder)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, start_worker, (os.getpid(),)) as executor:
        executor.submit(int).result()  # forks every worker before readers start threads
        out.parent.mkdir(parents=True, exist_ok=True)
        counts = list(map(count_rows, files))
        rows = itertools.chain.from_iterable(map(read_file, files))
        with (
            TokenFileWriter(out, tokenizer_sha256(tokenizer_json(model, tokenizer)), max_length, joints=True) as writer,
            tqdm(in_order(rows, _encode_rows, executor, 3 * workers), total=sum(counts), unit=" samples", disable=None) as results,
        ):
            summary = _write(results, writer, sum(counts), BadLines(max_bad_lines))
            summary.check_named()
            summary.passed_over = files_passed_over(inputs, reading)
            summary.without_rows = [file.path for file, own in zip(files, counts) if not own]
            check_found(summary.samples(), inputs)
            return summary


def _write(results: Iterable[Prepared | Bad], writer: TokenFileWriter, rows: int, bad_lines: BadLines) -> Summary:
    summary, contents = Summary(bad_lines), FirstPlaces(rows)
    for result in with_own_ids(results, rows, bad_lines):
        writer.append(result.id, result.source, result.encoded.tokens, result.encoded.label_mask, result.joint)
        summary.add(result)
        content = result.encoded.tokens.tobytes() + result.encoded.label_mask.tobytes()
        if content and (first := contents.take(content, result.place)):
            summary.add_repeated(result.place, first)
    return summary
