#!/usr/bin/env python3
"""The sections of jobs/gpu_check.sh, which starts this: each prints what it finds, and whether that is right."""

import argparse
import sys
import tempfile
from pathlib import Path

from idistill.gpu_report import Report
from idistill.gpu_sections import Trials, sections

SECTIONS = ("machine", "kernels", "passes", "nccl", "runs", "speed", "reference")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=" ".join(SECTIONS))
    parser.add_argument("--work", type=Path, help="keeps models and results (default: a new folder)")
    parser.add_argument("--small", action="store_true", help="without the 7B shape")
    parser.add_argument("--minutes", type=float, default=8, help="what is left then is listed as NOT RUN (default 8)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tries the check itself")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section is called {' or '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    work = options.work or Path(tempfile.mkdtemp(prefix="gpu-check-"))
    work.mkdir(parents=True, exist_ok=True)
    report = Report(options.minutes)
    trials = sections(Trials(report, work, options.device, options.small))
    for name in options.sections or SECTIONS:
        report.line(f"== {name} ({report.left():.0f} s left)")
        for what, of_trial in trials[name]:
            report.trial(what, of_trial)
    sys.exit(report.end())


if __name__ == "__main__":
    main()
