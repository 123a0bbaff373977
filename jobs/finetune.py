#!/usr/bin/env python3
"""Trains a model on what idistill_mpi selected, and says what that did to the loss on samples that nobody selected for.

An arm is a way to choose the training samples, all up to the same number of tokens:
    selected       those of the result, in order of selection, each loss times its weight
    best-sources   at random from the source of highest mean influence, then from the next, with equal weights
    random         at random from the whole pool, with equal weights
    listed         those of --list FILE, what another method chose, with equal weights
    base           none: the model as it is

AdamW of transformers' Trainer, learning rate falling linearly; the loss of a step is the mean over samples of weight times
mean token loss. Evaluation loss: mean over samples of the mean token loss, before and after. --exact-match: the share of
greedy answers that are the sample's, in the first line, behind "The answer is" where that is said, up to case, articles and
punctuation.
"""

import sys

from idistill.finetuning import outcome_of, parsed


def main():
    options = parsed(description=__doc__)
    try:
        outcome = outcome_of(options)
    except (ValueError, OSError) as error:
        sys.exit(f"finetune.py: {error}")
    print(f"arm {options.arm}, seed {options.seed}: {outcome.samples:,} samples, {outcome.tokens:,} tokens")
    print(f"{'evaluation loss':24}  {'before':>8}  {'after':>8}")
    for name, after in outcome.after.items():
        print(f"{name:24}  {outcome.before[name]:8.4f}  {after:8.4f}")
    for name, share in outcome.exact.items():
        print(f"{name + ', right answers':34}  {100 * share:6.1f} %")


if __name__ == "__main__":
    main()
