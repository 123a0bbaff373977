"""Measuring the passes with bench_passes, beside transformers on the same samples."""

import re
import statistics
import subprocess
import sys
from pathlib import Path

JOBS = Path(__file__).resolve().parent.parent
LINE = re.compile(r"^(?P<name>.+?) +(?P<rate>\d+) (?P<unit>\w+)/s +(?P<gflops>[\d.]+) GFLOP/s +(?P<share>\d+) % of the peak of (?P<peak>[\d.]+)$")

REFERENCES = {
    "jvp": ("e", "embeddings by transformers + torch.func.jvp"),
    "gradient": ("f", "gradients of all parameters by transformers + autograd"),
    "gradient-chosen": ("f'", "the same, of the chosen layers alone"),
}
# Passes of ours that others are compared with.
OWN = {"plain": ("c", "gradient"), "kronecker": ("kronecker", "kronecker")}
PASSES = [("jvp", ["jvp"]), ("dense", ["jvp"]), ("hidden", []), ("gradient", ["gradient", "gradient-chosen", "kronecker"]),
          ("adam", ["plain"]), ("task", ["plain"]), ("tasks", ["plain"]), ("adam-tasks", ["plain"]), ("propagate", [])]


def passes(arguments, ranks, what, samples, program=None):
    """What bench_passes printed for one pass: name, rate, unit, GFLOP/s, share of the peak in %, the peak in GFLOP/s."""
    command = ["mpirun", "--oversubscribe", "-n", str(ranks), program or arguments.program, arguments.model, arguments.tokens, str(samples),
               "1", what]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (match,) = [m for m in map(LINE.match, output.splitlines()) if m]
    return match.groupdict()


def reference(arguments, what):
    if what in OWN:
        return float(passes(arguments, arguments.ranks, OWN[what][1], arguments.samples)["rate"])
    command = [sys.executable, JOBS / "bench_reference.py", what, arguments.model, arguments.tokens, "--first", str(arguments.samples),
               "--threads", str(arguments.ranks)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def weights(arguments, *variant):
    """What bench_passes printed for optimal weights of 10 million generated rows of rank 16."""
    command = ["mpirun", "--oversubscribe", "-n", str(arguments.ranks), arguments.program, "weighted", "10000000", "16", *variant]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def rounds_of(arguments, what, others, reference_rates):
    """Rows of `what` at the full rank count, with its ratios to every reference, and to one rank."""
    rows, ratios, scaling = [], {other: [] for other in others}, []
    for _ in range(arguments.rounds):
        rows.append(passes(arguments, arguments.ranks, what, arguments.samples))
        for other in others:
            reference_rates[other].append(reference(arguments, other))
            ratios[other].append(float(rows[-1]["rate"]) / reference_rates[other][-1])
        one = passes(arguments, 1, what, max(1, arguments.samples // 4))
        scaling.append((float(rows[-1]["share"]) * float(rows[-1]["peak"])) / (float(one["share"]) * float(one["peak"])))
    return rows, ratios, scaling


def compared(arguments):
    """The lines of the table of --before, each as soon as it is measured: the two programs take turns to be first."""
    median = statistics.median
    programs = [arguments.before, arguments.program]
    yield f"{arguments.ranks} ranks of 1 thread, first {arguments.samples} samples, medians of {arguments.rounds} rounds"
    yield f"{'pass':<28} {'before':>18} {'now':>18} {'now/before':>11}"
    for what, _ in PASSES:
        rates = {program: [] for program in programs}
        for i in range(arguments.rounds):
            for program in programs[::-1] if i % 2 else programs:
                row = passes(arguments, arguments.ranks, what, arguments.samples, program)
                rates[program].append(float(row["rate"]))
        before, now = rates.values()
        shown = [f"{median(own):.0f} {row['unit']}/s" for own in (before, now)]
        yield f"{row['name']:<28} {shown[0]:>18} {shown[1]:>18} {median(b / a for a, b in zip(before, now)):>9.3f} x"


def report(arguments):
    """The lines of the table, each as soon as it is measured."""
    yield (f"{arguments.ranks} ranks of 1 thread, first {arguments.samples} samples, medians of {arguments.rounds} rounds; scaling: "
           f"FLOP/s of {arguments.ranks} ranks over 1 rank's")
    yield f"{'pass':<28} {'rate':>18} {'GFLOP/s':>8} {'of (a) peak':>12} {'over reference':>24} {'scaling':>8}"
    labels = {name: label for name, (label, _) in {**REFERENCES, **OWN}.items()}
    rates = {name: [] for name in labels}
    peaks = []
    median = statistics.median
    for what, others in PASSES:
        rows, ratios, scaling = rounds_of(arguments, what, others, rates)
        peaks += [float(r["peak"]) for r in rows]
        rate = f"{median(float(r['rate']) for r in rows):.0f} {rows[0]['unit']}/s"
        over = ", ".join(f"{median(ratios[other]):.2f} x ({labels[other]})" for other in others)
        yield (f"{rows[0]['name']:<28} {rate:>18} {median(float(r['gflops']) for r in rows):>8.1f} "
               f"{median(float(r['share']) for r in rows):>10.0f} % {over:>24} {median(scaling):>6.2f} x")
    yield f"(a) peak of the matrix products, {arguments.ranks} ranks at once, measured around every pass: {median(peaks):.1f} GFLOP/s"
    for name, (label, text) in REFERENCES.items():
        yield f"({label}) {text}, one sample at a time: {median(rates[name]):.0f} tokens/s"
    yield weights(arguments)
    yield weights(arguments, "auto")
