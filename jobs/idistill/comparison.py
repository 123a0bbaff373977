"""Fine-tuning on many arms, each with several budgets and seeds, whose outcomes are kept in a directory."""

import argparse
import io
import json
import os
import statistics
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from idistill import finetuning
from idistill.arguments import reading_of
from idistill.files import find_files
from idistill.kept import digest
from idistill.whole_files import written_whole
from idistill.workers import start_worker


class Trial(NamedTuple):
    """One run of finetune.py."""

    arm: str
    tokens: int
    seed: int
    options: dict  # of finetune.py, by name


class Row(NamedTuple):
    """An arm with one budget."""

    arm: str
    tokens: int
    samples: float  # mean over seeds
    loss: dict[int, dict[str, float]]  # by seed, by evaluation file
    exact: dict[int, dict[str, float]]  # share of right answers, by seed, by file of --exact-match

    def mean_loss(self) -> dict[int, float]:
        """Over the evaluation files, by seed."""
        return {seed: statistics.mean(loss.values()) for seed, loss in self.loss.items()}


def trials_of(comparison: dict) -> list[Trial]:
    """By budget, then by seed, so that a stopped comparison has all arms of the first ones. Raises ValueError."""
    common = {name: value for name, value in comparison.items() if name not in ("arms", "tokens", "seeds")}
    for name in ("model", "eval", "tokens", "seeds", "arms"):
        if not comparison.get(name):
            raise ValueError(f"{name}: is missing; expected the keys that --help shows")
    trials = [Trial("base", 0, 0, {**common, "arm": "base"})]
    for tokens in comparison["tokens"]:
        for seed in comparison["seeds"]:
            for arm, own in comparison["arms"].items():
                options = {**common, **own, "tokens": tokens, "seed": seed}
                if "result" not in options:
                    raise ValueError(f"arms.{arm}: has no result; expected the result file whose samples it takes")
                options["result"] = options["result"].format(tokens=tokens)
                trials.append(Trial(arm, tokens, seed, options))
    return trials


def words_of(options: dict) -> list[str]:
    """As finetune.py takes them."""
    return [str(word) for name, value in options.items()
            if value != [] for word in (f"--{name}", *(value if isinstance(value, list) else [value]))]  # fmt: skip


def inputs_of(options: argparse.Namespace) -> list[Path]:
    """Files that the run reads. Raises ValueError."""
    samples = [path for named in (options.eval, options.pool or [], options.exact_match) for path in named]
    files = [file.path for path in samples for file in find_files([path], reading_of(options)._replace(sources=()))]
    return [options.model, *files, *(path for path in (options.result, options.list) if path is not None)]


def kept_in(directory: Path, trial: Trial) -> Path:
    """Where its outcome is: of other options, defaults too, or of inputs with other contents, another file.

    Raises ValueError and OSError.
    """
    options = finetuning.parsed(words_of(trial.options))
    return directory / f"{digest([finetuning.VERSION, vars(options)], inputs_of(options))}.json"


def check(trial: Trial):
    """Raises ValueError for options that finetune.py does not take."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            finetuning.parsed(words_of(trial.options))
    except SystemExit:
        raise ValueError(f"arm {trial.arm}: {said.getvalue().strip().splitlines()[-1]}") from None


def compute(trial: Trial, path: Path, threads: int):
    """In a process of its own. Raises ValueError."""
    torch.set_num_threads(threads)
    try:
        with redirect_stdout(sys.stderr):  # Trainer's summary
            outcome = finetuning.outcome_of(finetuning.parsed(words_of(trial.options)), also_before=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"arm {trial.arm}, {trial.tokens} tokens, seed {trial.seed}: {error}") from error
    text = json.dumps({"arm": trial.arm, "options": trial.options, **outcome._asdict()}, indent=1)
    with written_whole(path) as partial:
        partial.write_text(text)


def compute_missing(trials: list[Trial], places: list[Path], at_once: int):
    """Raises ValueError of the first trial that fails."""
    missing = [i for i, place in enumerate(places) if not place.exists() and place not in places[:i]]
    threads = max(1, (os.cpu_count() or 1) // at_once)
    with ProcessPoolExecutor(at_once, get_context("spawn"), start_worker, (os.getpid(),)) as pool:
        pending = {pool.submit(compute, trials[i], places[i], threads): trials[i] for i in missing}
        for number, done in enumerate(as_completed(pending), 1):
            if done.exception():
                pool.shutdown(cancel_futures=True)
                raise done.exception()
            trial = pending[done]
            print(f"{number} of {len(missing)}: {trial.arm}, {trial.tokens:,} tokens, seed {trial.seed}",
                  file=sys.stderr, flush=True)  # fmt: skip


def rows_of(outcomes: list[tuple[Trial, dict]]) -> list[Row]:
    rows = {}
    for trial, outcome in outcomes:
        rows.setdefault((trial.tokens, trial.arm), {})[trial.seed] = outcome
    return [
        Row(arm, tokens, statistics.mean(own["samples"] for own in by_seed.values()),
            {seed: own["after"] for seed, own in by_seed.items()}, {seed: own["exact"] for seed, own in by_seed.items()})
        for (tokens, arm), by_seed in rows.items()
    ]  # fmt: skip


def spread(values: list[float], digits: int = 3) -> str:
    return f"{statistics.mean(values):.{digits}f}" + (f" +-{statistics.stdev(values):.{digits}f}" if len(values) > 1 else "       ")


def difference(row: Row, random: Row | None) -> str:
    """Mean over seeds of the paired difference to random samples, and its standard error."""
    if random is None or random is row:
        return ""
    own, other = row.mean_loss(), random.mean_loss()
    paired = [own[seed] - other[seed] for seed in own if seed in other]
    if len(paired) < 2:
        return f"  {paired[0]:+.3f}" if paired else ""
    return f"  {statistics.mean(paired):+.3f} +-{statistics.stdev(paired) / len(paired) ** 0.5:.3f}"


def table(rows: list[Row]) -> str:
    names = list(next(iter(rows[0].loss.values())))
    answered = list(next(iter(rows[0].exact.values())))
    width = max(len(row.arm) for row in rows)
    lines = [f"{'tokens':>7}  {'arm':{width}}  {'samples':>7}" + "".join(f"  {name[:13]:>13}" for name in [*names, "mean"])
             + "".join(f"  {name[:11] + ' %':>13}" for name in answered) + "  mean - random"]  # fmt: skip
    for row in rows:
        random = next((other for other in rows if other.arm == "random" and other.tokens == row.tokens), None)
        columns = [[loss[name] for loss in row.loss.values()] for name in names] + [list(row.mean_loss().values())]
        shares = [[100 * exact[name] for exact in row.exact.values()] for name in answered]
        lines.append(f"{row.tokens:7,}  {row.arm:{width}}  {row.samples:7.1f}" + "".join(f"  {spread(own):>13}" for own in columns)
                     + "".join(f"  {spread(own, 1):>13}" for own in shares) + difference(row, random))  # fmt: skip
    return "\n".join(lines)


def compared(comparison: dict, out: Path, at_once: int, show: bool = False) -> str:
    """What is to be said of the outcomes in `out`, after computing those that are missing, or with `show` of what is there.

    `comparison`: as a file of compare_arms.py says it. Raises ValueError and OSError.
    """
    trials = trials_of(comparison)
    for trial in trials:
        check(trial)
    out.mkdir(parents=True, exist_ok=True)
    places = [kept_in(out, trial) for trial in trials]
    if not show:
        compute_missing(trials, places, at_once)
    outcomes = [(trial, json.loads(place.read_text())) for trial, place in zip(trials, places) if place.exists()]
    if not outcomes:
        raise ValueError(f"{out}: has no outcomes yet; run without --show first")
    unfinished = f"\n{len(outcomes)} of {len(trials)} runs are done" if len(outcomes) < len(trials) else ""
    return table(rows_of(outcomes)) + unfinished


def compare(comparison: Path, out: Path, at_once: int, show: bool) -> str:
    """`compared`, of a file. Raises ValueError and OSError."""
    with open(comparison, "rb") as file:
        return compared(tomllib.load(file), out, at_once, show)
