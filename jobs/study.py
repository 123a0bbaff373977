#!/usr/bin/env python3
"""The tables of docs/evaluation.md, measured from nothing: embeddings, refining, propagations, training on what was selected.

    jobs/study.py jobs/study.toml --data DIR --model MODEL --out study
    jobs/study.py jobs/study.toml --data DIR --model MODEL --out study --only training --arms random top-k

What was computed is kept in --out and is not computed again: a stopped study continues with the same command, and what is
changed in the settings is all that is computed for it. What another version of idistill_mpi wrote is kept too: give another
--out to measure again. The tables are printed, and when they are whole written to OUT/<part>.txt.
Settings are a file: data, runs of idistill_mpi, embeddings, budgets, arms, seeds. jobs/study.toml is of the gradient's influence,
jobs/study_second_part.toml in small of other samples, jobs/study_influences.toml of the five influence functions.
"""

import argparse
import sys
from pathlib import Path

from idistill.arguments import positive
from idistill.study import PARTS, measure

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path, metavar="FILE.toml", help="what is measured, as in jobs/study.toml")
    parser.add_argument("--data", type=Path, required=True, help="directory of pool, targets and evaluation samples")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is kept")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="parts of the study (all that the settings have)")
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="arms of training (all)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds of training (those of the settings)")
    parser.add_argument("--tokens", nargs="+", type=positive, metavar="N", help="budgets of training (those of the settings)")
    parser.add_argument("--ranks", type=positive, default=2, help="(%(default)s)")
    parser.add_argument("--at-once", type=positive, default=1, metavar="N", help="trainings side by side (%(default)s)")
    parser.add_argument("--program", default=str(ROOT / "build/idistill_mpi"))
    parser.add_argument("--mpirun", default="mpirun")
    try:
        for line in measure(parser.parse_args()):
            print(line, flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"study.py: {error}")


if __name__ == "__main__":
    main()
