#!/usr/bin/env python3
"""Speed of transformers on the same work, one sample at a time, as the published code does: embeddings by torch.func.jvp, or
per-sample gradients by autograd (of every parameter, as a plain backward() gives them, or of the chosen layers alone).
Prints tokens per second. Used by jobs/bench.py."""

import argparse

from idistill.reference_speed import MAKE, tokens_per_second


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=MAKE)
    parser.add_argument("model")
    parser.add_argument("tokens", help="token file of jobs/prepare.py")
    parser.add_argument("--first", type=int, default=256, help="samples of the file to take from (default 256)")
    parser.add_argument("--stride", type=int, default=8, help="every STRIDE-th of them (default 8)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(tokens_per_second(arguments.what, arguments.model, arguments.tokens, arguments.first, arguments.stride, arguments.threads))


if __name__ == "__main__":
    main()
