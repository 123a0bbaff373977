"""Which propagation is better for which influence function, at equal labels: a part of jobs/study.py."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from idistill.kept import digest
from idistill.propagation_quality import compared, figures
from idistill.result import Result
from idistill.rows import row_columns, sample_id
from idistill.samples import read_rows
from idistill.whole_files import written_whole

JOBS = Path(__file__).resolve().parent.parent


class Files:
    """What the runs read, made when a run first names it. All raise ValueError and OSError."""

    def __init__(self, study):
        self.study, self.settings = study, study.settings["propagation"]
        rows = [sample_id(row, row_columns(row)) for row in read_rows(study.drawn())]
        drawn = np.random.default_rng(study.settings["seed"]).permutation(len(rows))[: self.settings["samples"]]
        self.part = study.some_of_drawn([rows[row] for row in drawn])
        self.held_out = study.some_of_drawn([rows[row] for row in drawn[: self.settings["held-out"]]])
        self.targets = [self._first(path) for path in study.data("target")]

    def _first(self, path: Path) -> Path:
        """The first samples of a target."""
        count = self.settings["targets"]
        out = self.study.out / f"{path.name.partition('.')[0]}-{digest(count, [path])}.jsonl"
        if not out.exists():
            with written_whole(out) as partial:
                partial.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:count]))
        return out

    def _job(self, name: str, words: list, extension: str) -> Path:
        """What jobs/NAME.py writes."""
        out = self.study.out / f"{name}-{digest([str(word) for word in words], filter(Path.exists, map(Path, words)))}{extension}"
        if not out.exists():
            command = [sys.executable, str(JOBS / f"{name}.py"), *map(str, words), "--out", str(out)]
            print(shlex.join(command), file=sys.stderr, flush=True)
            if subprocess.run(command, stdout=sys.stderr).returncode != 0:
                raise ValueError(f"{shlex.join(command)} failed; the same command continues")
        return out

    def sentences(self) -> Path:
        return self._job("embed", [self.part, *self.targets], ".h5")

    def ratings(self) -> Path:
        return self._job("rate", [self.part, "--model", self.study.options.model], ".h5")

    def warm(self) -> Path:
        pool = self.study.tokens(self.study.drawn())
        return self._job("warmup", ["--model", self.study.options.model, "--pool", pool, *shlex.split(self.settings["warmup"])], "")

    def options(self, text: str) -> list[str]:
        """{sentences}, {ratings} and {warm} stand for files."""
        made = {name: str(getattr(self, name)()) for name in ("sentences", "ratings", "warm") if f"{{{name}}}" in text}
        return shlex.split(text.format(**made))

    def run(self, name: str, pool: Path, influence: str, propagation: str) -> Path:
        words = ["--model", str(self.study.options.model), "--pool", str(self.study.tokens(pool))]
        if influence not in self.settings.get("without-targets", []):
            named = zip(self.study.settings["tasks"], self.targets)
            words += [word for task, path in named for word in ("--target", f"{task}={self.study.tokens(path)}")]
        options = self.options(f"{self.settings['influence'][influence]} {propagation}")
        return self.study.program.kept(name, [*words, *options])


def propagation(study) -> Iterator[str]:
    """R2 of single influences, of tasks within source and over all, and Spearman, on samples that were not labelled."""
    settings, files = study.settings["propagation"], Files(study)
    width = max(map(len, [*settings["influence"], "influence"]))
    other = max(map(len, settings["by"]))
    yield f"{settings['samples']} samples of which {settings['labelled']} are labelled, {settings['held-out']} compared"
    yield f"{'influence':{width}}  {'propagation':{other}}  {'pairs':>7} {'within':>7} {'R2':>7} {'Spearman':>8} {'seconds':>8}"
    for influence in settings["influence"]:
        exact = files.run(f"exact-{influence}", files.held_out, influence, "--propagation none")
        for name, by in settings["by"].items():
            labelled = f"{by} --landmarks {settings['labelled']}"
            with Result(exact) as truth, Result(files.run(f"{influence}-by-{name}".replace(" ", "-"), files.part, influence, labelled)) as result:
                found = compared(truth, result)
            pairs, within, r2, rank = figures(found)
            yield f"{influence:{width}}  {name:{other}}  {pairs:7.3f} {within:7.3f} {r2:7.3f} {rank:8.3f} {found.seconds:8.1f}"
