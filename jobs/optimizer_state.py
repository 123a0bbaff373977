#!/usr/bin/env python3
"""Converts the state of an optimizer that was trained with to the file that `idistill_mpi --optimizer` reads.

IN is a checkpoint directory of transformers' Trainer (its optimizer.pt is read) or a file that torch.save wrote, of
torch.optim's state_dict(), plain or under "optimizer" or "optimizer_state_dict". torch.optim's AdamW, Adam and SGD are
known. Such a file numbers its parameters; their names follow from the model's and the way that parameters were grouped
(Trainer's groups with and without weight decay, or one group of model.parameters()), and every shape is checked. The
weight decay written is that of the linear layers.

A LoRA/PEFT checkpoint is refused: its moments belong to the adapters, not to the model's weights.
"""

import argparse
import re
import sys
from pathlib import Path

from idistill import optimizer_file
from idistill.optimizer_conversion import converted, model_parameters, without_moments


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="IN", help="checkpoint directory of Trainer, or a torch.save file")
    parser.add_argument("--model", type=Path, required=True, help="directory of the model that was trained")
    parser.add_argument("--out", type=Path, required=True, help="file to write (safetensors)")
    parser.add_argument("--trainable", metavar="REGEX", help="parameters that were trained, where the others were frozen")
    parser.add_argument("--kind", choices=["adamw", "adam"], help="only for files that do not say it")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="instead of the file's, which schedules end at 0")
    options = parser.parse_args()
    try:
        parameters = model_parameters(options.model)
        state = converted(options.checkpoint, parameters, options.trainable, options.kind, options.learning_rate)
        optimizer_file.write(options.out, state)
    except re.error as error:
        sys.exit(f"optimizer_state.py: --trainable '{options.trainable}' is not a regular expression ({error})")
    except (ValueError, OSError) as error:
        sys.exit(f"optimizer_state.py: {error}\n{options.out} was not written")
    numbers = {"learning rate": state.learning_rate, "weight decay": state.weight_decay, **state.constants}
    print(f"{state.kind} after {state.step:,} steps: {', '.join(f'{name} {value:g}' for name, value in numbers.items())}")
    if absent := without_moments(state, parameters.shapes):
        print(f"without moments, never trained: {len(absent)} parameters, such as {absent[0]}")
    print(f"{options.out}: written")


if __name__ == "__main__":
    main()
