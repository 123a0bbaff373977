#!/usr/bin/env python3
"""Trains a model on every arm of a comparison, several seeds each, and prints the evaluation losses side by side.

    jobs/compare_arms.py arms.toml --out outcomes

    # arms.toml: options of jobs/finetune.py, those of one arm in its table
    model = "SmolLM2-135M"
    pool = ["train.jsonl"]
    eval = ["gsm8k.jsonl", "squad.jsonl"]
    tokens = [15000, 60000]               # every arm with each of these budgets
    seeds = [43, 44, 45]                  # and with each of these seeds
    [arms]
    "top-k" = { result = "top.h5" }
    "weighted" = { result = "weighted_{tokens}.h5", loss-weights = "effective" }     # a result for every budget
    "random" = { result = "top.h5", arm = "random" }

The model as it is comes first. Outcomes are kept in --out, one JSON file a run, and are not computed again; so a stopped
comparison continues with the same command. A figure is the mean over seeds, +- their standard deviation; `mean` is over the
evaluation files, `mean - random` its difference to the arm named random, paired by seed, +- the difference's standard error.
"""

import argparse
import sys
from pathlib import Path

from idistill.arguments import positive
from idistill.comparison import compare


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, metavar="FILE.toml", help="what to compare")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where outcomes are kept")
    parser.add_argument("--at-once", type=positive, default=1, metavar="N", help="runs side by side, which share the cores (%(default)s)")
    parser.add_argument("--show", action="store_true", help="the table of what is done already; computes nothing")
    options = parser.parse_args()
    try:
        print(compare(**vars(options)))
    except (ValueError, OSError) as error:
        sys.exit(f"compare_arms.py: {error}")


if __name__ == "__main__":
    main()
