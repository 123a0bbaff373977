"""Running a job within the process of a test."""

import sys

import pytest


def of(job):
    """run(monkeypatch, *arguments) as on the command line, and refused(...), which gives what it ends with."""

    def run(monkeypatch, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{job.__name__}.py", *map(str, arguments)])
        job.main()

    def refused(monkeypatch, *arguments) -> str:
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, *arguments)
        return str(ended.value)

    return run, refused
