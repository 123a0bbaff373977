"""What jobs/gpu_check.py says of what it tries, and the time that it has."""

import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Callable

LEAST_SECONDS = 5  # with less left nothing more is begun


class OutOfTime(Exception):
    """The check's time ended before the trial did."""


class Skipped(Exception):
    """This machine lacks what the trial needs."""


def need(*packages: str):
    """Raises Skipped for the first Python package that is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise Skipped(f"python3 has no {package}")


def last_lines(text: str, count: int = 12) -> str:
    return "\n    ".join(text.strip().splitlines()[-count:])


class Report:
    """Every line is printed as it is found."""

    def __init__(self, minutes: float):
        self.deadline = time.monotonic() + 60 * minutes
        self.wrong: list[str] = []
        self.skipped: list[str] = []
        self.not_run: list[str] = []

    def line(self, text: str):
        print(text, flush=True)

    def check(self, what: str, right: bool, found: str = ""):
        self.line(f"  {'right' if right else 'WRONG'}  {what}{': ' + found if found else ''}")
        if not right:
            self.wrong.append(what)

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def said(self, command, timeout: float, environment: dict | None = None) -> tuple[int, str]:
        """Exit code and everything printed; 124 where it took too long. Raises OutOfTime where the check's time ended."""
        seconds = min(timeout, self.left())
        if seconds <= 0:
            raise OutOfTime
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}, start_new_session=True)
        try:
            text = process.communicate(timeout=seconds)[0]
            return process.returncode, text
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text = process.communicate()[0]
            if seconds < timeout:
                self.line("  " + last_lines(text))
                raise OutOfTime from None
            return 124, text

    def trial(self, what: str, work: Callable[[], None]):
        """Does one thing of the check, whatever becomes of the others."""
        if self.left() < LEAST_SECONDS:
            self.not_run.append(what)
            return
        try:
            work()
        except OutOfTime:
            self.not_run.append(what)
        except Skipped as reason:
            self.line(f"  SKIPPED  {what}: {reason}")
            self.skipped.append(what)
        except Exception as error:
            self.check(what, False, f"{type(error).__name__}: {error}")

    def end(self) -> int:
        """The exit code, after the last lines."""
        for what in self.not_run:
            self.line(f"  NOT RUN  {what}: the time was up")
        found = f"WRONG: {'; '.join(self.wrong)}" if self.wrong else "everything that was run is right"
        for title, names in (("SKIPPED", self.skipped), ("NOT RUN", self.not_run)):
            found += f"; {title}: {', '.join(names)}" if names else ""
        self.line("gpu_check: " + found)
        return 1 if self.wrong or self.not_run else 0
