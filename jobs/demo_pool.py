#!/usr/bin/env python3
"""Generates a pool of small tasks of twelve families, and target files of fresh samples from some of them.

Writes OUT/pool.jsonl (1,200 samples in random order, 100 a family, source = family) and OUT/<family>.jsonl for every
target (20 samples, none of them in the pool). The same seed gives the same files.
"""

import argparse
import json
from pathlib import Path

from idistill.demo_samples import FAMILIES, generate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    parser.add_argument("--targets", nargs="+", choices=FAMILIES, default=["arithmetic", "code_tracing"])
    parser.add_argument("--seed", type=int, default=43)
    options = parser.parse_args()

    pool, targets = generate(options.seed, options.targets)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, samples in {"pool": pool, **targets}.items():
        path = options.out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), encoding="utf-8")
        print(f"{path}: {len(samples):,} samples")


if __name__ == "__main__":
    main()
