"""Runs of idistill_mpi whose results are kept in a directory, so that what is there is not computed again."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from idistill.kept import digest


class Program(NamedTuple):
    """How runs are started, and where their results are kept."""

    out: Path
    program: str
    mpirun: str = "mpirun"
    ranks: int = 2

    def kept(self, name: str, options: list[str], ranks: int | None = None) -> Path:
        """The file that the program writes with these options, and --out; of other options or inputs with other contents,
        another file. What another version of the program wrote is kept as well. A stopped run continues. Raises ValueError."""
        named = [word.rpartition("=")[2] for word in options]  # NAME=FILE, and DIR:RATE
        paths = [Path(own) for word in named for own in (word, word.rpartition(":")[0]) if own]
        count = ranks or self.ranks
        out = self.out / f"{name}-{digest([options, count], filter(Path.exists, paths))}.h5"
        if out.exists():
            return out
        command = [self.mpirun, "--oversubscribe", "--bind-to", "none", "-n", str(count), self.program, *options, "--out", str(out)]
        print(shlex.join(command), file=sys.stderr, flush=True)
        if subprocess.run(command, stdout=sys.stderr).returncode != 0:
            raise ValueError(f"the run for {out} failed; the same command continues")
        return out
