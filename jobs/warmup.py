#!/usr/bin/env python3
"""Warms a model up: a short AdamW run of transformers' Trainer on a random part of the pool.

Influence for Adam needs the optimizer's moments, and tells more about a model that has seen some of the pool. --out becomes a
normal model directory (config.json, safetensors in fp32, the tokenizer as it was) with optimizer.safetensors beside it:

    jobs/warmup.py --model MODEL --pool pool.h5 --samples 5% --out warm
    build/idistill_mpi --model warm --optimizer warm/optimizer.safetensors --pool pool.h5 ...

The run works in OUT.partial and keeps checkpoints there. A run that was stopped continues with the same command; --out is
complete or not there. One process on one device; gradient checkpointing, and bf16 where the GPU has it.
"""

import argparse
import sys
from pathlib import Path

from idistill.arguments import positive
from idistill.warm_up import warm_up


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--pool", type=Path, required=True, nargs="+", metavar="FILE", help="token files of jobs/prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="model directory to write")
    parser.add_argument("--samples", default="5%", metavar="N|P%", help="random part to train on, once (5%%)")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="(%(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="decoupled, of linear layers (%(default)s)")
    parser.add_argument("--batch-size", type=positive, default=16, help="samples per step (%(default)s)")
    parser.add_argument("--micro-batch", type=positive, default=4, help="samples at once; less takes less memory (%(default)s)")
    parser.add_argument("--max-steps", type=positive, help="stop earlier")
    parser.add_argument("--checkpoints", type=positive, default=10, help="how many to write on the way (%(default)s)")
    parser.add_argument("--seed", type=int, default=43, help="of the part and its order (%(default)s)")
    options = parser.parse_args()
    try:
        warm_up(options)
    except (ValueError, OSError) as error:
        sys.exit(f"warmup.py: {error}\n{options.out} was not written")


if __name__ == "__main__":
    main()
