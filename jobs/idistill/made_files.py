"""Files that the runs of a study read beside model, pool and targets, made when a run first names them."""

import shlex
import subprocess
import sys
from pathlib import Path

from idistill.kept import digest

JOBS = Path(__file__).resolve().parent.parent


class MadeFiles:
    """Of a pool and targets in JSON lines. All raise ValueError and OSError."""

    def __init__(self, study, pool: Path, targets: list[Path]):
        self.study, self.pool, self.targets = study, pool, targets

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
        return self._job("embed", [self.pool, *self.targets], ".h5")

    def ratings(self) -> Path:
        return self._job("rate", [self.pool, "--model", self.study.options.model], ".h5")

    def warm(self) -> Path:
        if "warmup" not in self.study.settings:
            raise ValueError(f"{self.study.options.settings}: warmup: is missing; expected options of jobs/warmup.py, which {{warm}} needs")
        pool = self.study.tokens(self.study.drawn())
        words = ["--model", self.study.options.model, "--pool", pool, *shlex.split(self.study.settings["warmup"])]
        return self._job("warmup", words, "")

    def run_options(self, influence: str, pool: Path | None = None) -> list[str]:
        """Options of a run: inputs, of the pool a part where given, and those of the influence, with {sentences}, {ratings} and
        {warm} filled in."""
        made = {name: str(getattr(self, name)()) for name in ("sentences", "ratings", "warm") if f"{{{name}}}" in influence}
        words = shlex.split(influence.format(**made))
        named = [] if self._needs_no_targets(words) else zip(self.study.settings["tasks"], self.targets)
        targets = [word for task, path in named for word in ("--target", f"{task}={self.study.tokens(path)}")]
        return ["--model", str(self.study.options.model), "--pool", str(self.study.tokens(pool or self.pool)), *targets, *words]

    def _needs_no_targets(self, words: list[str]) -> bool:
        """SelectIT has none, and refuses them."""
        return "selectit" in (after for before, after in zip(words, words[1:]) if before == "--influence")
