#!/usr/bin/env python3
"""Speed of the passes on this machine: against the peak of its matrix products, against transformers one sample at a time, and of two
ranks against one. Every figure is a median over rounds; what is compared runs one after the other within a round. Run by jobs/bench.sh."""

import argparse
from pathlib import Path

from idistill.speed import compared, report

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default=str(ROOT / "build/tests/bench_passes"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True, help="token file; its first samples are used")
    parser.add_argument("--samples", type=int, default=256, help="(default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--ranks", type=int, default=2, help="ranks, and threads of the reference (default 2)")
    parser.add_argument("--before", help="bench_passes of another version: every pass by both, and the ratio of their rates, instead")
    arguments = parser.parse_args()
    for line in compared(arguments) if arguments.before else report(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
