#!/usr/bin/env python3
"""Pairs a second of the InfluenceNetwork (1,024 numbers an embedding, 100 units): the program's factorised prediction on one core
beside the call that the published code makes, a pair at a time through PyTorch, and beside a batch of 4,096 such pairs.
Run by jobs/bench.sh."""

import argparse
import re
import subprocess
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
EMBEDDING, WIDTH = 1024, 100


def pairs_per_second(network: torch.nn.Module, at_once: int, seconds: float = 2.0) -> float:
    """Of a loop over pairs, `at_once` of them a call: joined with a 0 between them, and scored."""
    rows, columns, zero = torch.randn(64, at_once, EMBEDDING), torch.randn(64, at_once, EMBEDDING), torch.zeros(at_once, 1)
    done, start = 0, time.perf_counter()
    with torch.no_grad():
        while time.perf_counter() - start < seconds:
            i = done // at_once % 64
            network(torch.cat([rows[i], zero, columns[i]], 1)).sum().item()
            done += at_once
    return done / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default=str(ROOT / "build/tests/bench_passes"))
    parser.add_argument("--rows", type=int, default=16384, help="(default 16384)")
    parser.add_argument("--columns", type=int, default=4096, help="(default 4096)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = torch.nn.Sequential(torch.nn.Linear(2 * EMBEDDING + 1, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 1))
    single, batch = pairs_per_second(network, 1), pairs_per_second(network, 4096)
    command = [arguments.program, "network", str(arguments.rows), str(arguments.columns)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    own = float(re.search(r"([\d.e+]+) pairs/s", said)[1])
    print(said)
    print(f"    PyTorch, one pair a call: {single:.3g} pairs/s, 1/{own / single:,.0f}; 4,096 pairs a call: {batch:.3g} pairs/s, "
          f"1/{own / batch:,.0f}")


if __name__ == "__main__":
    main()
