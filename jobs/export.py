#!/usr/bin/env python3
"""Writes the samples that idistill_mpi selected, in order of selection.

Every sample keeps its own fields and gets six more: idistill_rank (from 0), idistill_weight (mean 1 over the
selection), idistill_effective_weight (to multiply the sample's mean token loss with in training: with --normalize
cosine the weight over the sample's gradient norm, otherwise the weight; mean 1 over the selection),
idistill_influence (per task, mean over the task's target samples), and idistill_task and idistill_column, the target
that chose it. Samples are matched by id, and each selected id must be found once: a row without an id of its own is not
found where it has moved or changed since prepare.py read it. JSON lines take what JSON does not know as text (dates in
ISO 8601, bytes that are no UTF-8 in base64), as numbers (decimals, durations in seconds) or as null (numbers that are
not finite).

With --for, --out becomes a directory that a training framework starts from: data, training.yaml, and for TRL train.py. The
command to start it is printed. What happens to the weights w, of mean 1 over the selection:
    --weights column   every sample once, with w beside it; train.py multiplies the sample's mean token loss with it (TRL only)
    --weights repeat   every sample w times in expectation, as often as w rounded down or up by a seeded systematic sample, as
                       many rows as samples selected: in expectation an epoch's losses are those of `column`, with the noise of
                       the rounding; samples of small weight may be left out
    --weights none     every sample once: the loss of equal weights
TRL (train.py) and DataFlex take the mean over samples of mean token losses, as the influence does. LLaMA-Factory and axolotl
take the mean over a step's label tokens: there a sample counts by its weight times its number of label tokens.
"""

import argparse
import sys
from pathlib import Path

from idistill.arguments import add_reading, positive, reading_of
from idistill.files import find_files
from idistill.result import Result
from idistill.sample_files import check_out, check_pool, write
from idistill.selected_samples import export_rows, find_samples

FRAMEWORKS = ("trl", "llama-factory", "axolotl", "dataflex")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result file of idistill_mpi")
    parser.add_argument(
        "--pool", nargs="+", action="extend", type=Path, required=True,
        help="the files that the pool was prepared from, all of them; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True,
                        help="X.jsonl, X.parquet, or a new directory for datasets; with --for a new directory")  # fmt: skip
    training = parser.add_argument_group("with --for")
    training.add_argument("--for", dest="framework", choices=FRAMEWORKS, help="the framework to train with")
    training.add_argument("--data", choices=["tokens", "chat"],
                          help="tokens: those of the influence, with its labels (the default); chat: conversations, which the "
                          "framework tokenises and labels by itself")  # fmt: skip
    training.add_argument("--weights", choices=["column", "repeat", "none"], help="(trl: column, others: repeat)")
    training.add_argument("--loss-weights", choices=["weight", "effective"],
                          help="the result's weights (the default, as in finetune.py); or those over gradient norms, which are what "
                          "counts for plain losses by the formulas where the result has --normalize cosine")  # fmt: skip
    training.add_argument("--model", type=Path, help="directory of the model to train (that of the run)")
    training.add_argument("--max-length", type=positive, help="tokens kept of a sample, as in prepare.py (2048)")
    training.add_argument("--seed", type=int, help="of the repetition (43)")
    add_reading(parser)
    options = parser.parse_args()
    given = [f"--{name.replace('_', '-')}" for name in ("data", "weights", "loss_weights", "model", "max_length", "seed")
             if getattr(options, name) is not None]  # fmt: skip
    if given and not options.framework:
        parser.error(f"{', '.join(given)}: only with --for")
    return options


def export_for_training(options: argparse.Namespace) -> list[str]:
    """What there is to say. Raises ValueError and OSError."""
    from idistill.framework_export import Wanted, export
    from idistill.training_set import training_set

    wanted = Wanted(
        options.framework,
        options.data or "tokens",
        options.weights or ("column" if options.framework == "trl" else "repeat"),
        options.max_length or 2048,
        43 if options.seed is None else options.seed,
        options.out,
    )
    wanted.check()
    check_pool(options.pool)
    effective = options.loss_weights == "effective"
    reading = reading_of(options)
    return export(training_set(options.result, options.pool, options.model, wanted.max_length, effective, reading), wanted)


def main():
    options = parsed()
    try:
        if options.framework:
            said = export_for_training(options)
        else:
            reading = reading_of(options)
            check_out(options.out, [file.path for file in find_files(options.pool, reading)])
            with Result(options.result) as result:
                selection = result.selection()
            samples = find_samples(options.pool, {selected.id for selected in selection}, reading)
            write(export_rows(selection, samples), options.out)
            said = [f"{options.out}: {len(selection):,} samples"]
    except (ValueError, OSError) as error:
        sys.exit(f"export.py: {error}")
    print("\n".join(said))


if __name__ == "__main__":
    main()
