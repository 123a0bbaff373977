#!/usr/bin/env python3
"""Takes one real weighted optimizer step and compares what it does to the target loss with what the theory predicts.

Predicted (docs/method.md), for the step s = a * (1/N) sum_i w_i g_i + b:
    first order     -eta <s, g_T>
    second order    -eta <s, g_T> + eta^2/2 <s, H_T s>       H_T exact, by double backward
The step itself is torch.optim's, with the second moment of Adam held as in the formula. Everything is fp64 PyTorch, and
nothing of it is idistill_mpi's. Over a decade of eta above the rounding noise, which is measured, the first-order error must
fall with slope 2 (1.9 to 2.1) and the second-order error with slope 3 (2.8 to 3.2): if not, a formula is wrong, and the exit
code is 1. Gradients are raw, as with --normalize none.

Then, at the learning rate, the real target loss after one step with weights of several kinds, and for Adam what torch.optim
does when its second moment sees the weighted gradient: a gap of first order in eta remains.

Memory: 8 bytes for every sample and chosen weight. Time: a Hessian product for every sample and target where the
second-order weights are asked for.
"""

import argparse
import re
import sys
from pathlib import Path

from idistill.arguments import positive
from idistill.step_check import KINDS
from idistill.step_report import run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--pool", type=Path, required=True, help="token file of jobs/prepare.py")
    parser.add_argument("--target", type=Path, required=True, help="token file of the target task")
    parser.add_argument("--optimizer", type=Path, metavar="FILE", help="optimizer.safetensors; without it, plain SGD")
    parser.add_argument("--samples", type=positive, default=200, metavar="N", help="of the pool, at random (%(default)s)")
    parser.add_argument("--targets", type=positive, default=8, metavar="M", help="of the target, at random (%(default)s)")
    parser.add_argument("--max-length", type=positive, metavar="TOKENS", help="take only samples up to this length")
    parser.add_argument("--parameters", default="down_proj", metavar="REGEX", help="linear layers that step (%(default)s)")
    parser.add_argument("--weights", default="first-order", metavar="KIND|FILE",
                        help=f"of the step that is checked: {', '.join(KINDS)}, or a result file (%(default)s)")  # fmt: skip
    parser.add_argument("--select", default="25%", metavar="N|P%", help="positive weights of top-k and first order (25%%)")
    parser.add_argument("--lambda", dest="penalty", type=float, metavar="X", help="at second order, instead of first order's")
    parser.add_argument("--learning-rate", type=float, metavar="X",
                        help="of the comparison and of second-order weights (the optimizer's; SGD: from the curvature)")  # fmt: skip
    parser.add_argument("--compare", nargs="*", choices=KINDS, default=KINDS, metavar="KIND",
                        help="weights whose real target loss is compared (all; none: no comparison)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=43, help="of the samples (%(default)s)")
    options = parser.parse_args()
    try:
        passed = run(options)
    except re.error as error:
        sys.exit(f"one_step.py: --parameters '{options.parameters}' is not a regular expression ({error})")
    except (ValueError, OSError) as error:
        sys.exit(f"one_step.py: {error}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
