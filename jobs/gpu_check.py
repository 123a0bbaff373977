#!/usr/bin/env python3
"""The sections of jobs/gpu_check.sh, which starts this: each prints what it finds, and whether that is right."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MAKE = [sys.executable, str(ROOT / "tests" / "support" / "python" / "gpu_models.py")]
SECTIONS = ("machine", "kernels", "passes", "nccl", "runs", "speed", "reference")
SHAPES = {"llama-3.2-1b": 128_256, "llama-2-7b": 32_000}
BATCH_TOKENS = {"llama-3.2-1b": 32_768, "llama-2-7b": 16_384}
CORES = min(16, os.cpu_count())
PASSES = "gradient,adam,tasks,jvp,hidden,propagate"
# Demanded of a pass: share of the speed of large products on the same card at the same moment (issue 15).
FIRST_LANDING = {
    "llama-3.2-1b": {"(c) gradient sketch": 40, "(b) jvp, rank 8": 30},
    "llama-2-7b": {"(c) gradient sketch": 50, "(b) jvp, rank 8": 40},
}


class Report:
    def __init__(self):
        self.wrong = []

    def line(self, text: str):
        print(text, flush=True)

    def check(self, what: str, right: bool, found: str = ""):
        self.line(f"  {'right' if right else 'WRONG'}  {what}{': ' + found if found else ''}")
        if not right:
            self.wrong.append(what)


def said(command, timeout: float, environment: dict | None = None) -> tuple[int, str]:
    """Exit code and everything printed; 124 where it took too long."""
    done = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}, start_new_session=True)
    try:
        text = done.communicate(timeout=timeout)[0]
        return done.returncode, text
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)
        return 124, done.communicate()[0]


def last_lines(text: str, count: int = 12) -> str:
    return "\n    ".join(text.strip().splitlines()[-count:])


def machine(report: Report, _work: Path, _small: bool):
    import torch

    driver = said(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], 20)[1].strip()
    nccl_version = ".".join(map(str, torch.cuda.nccl.version()))
    report.line(f"{driver}; torch {torch.__version__}, CUDA {torch.version.cuda}, NCCL {nccl_version}")
    x = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def seconds(work, times=10) -> float:
        for _ in range(3):
            work()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / times

    report.line(f"  copy {2 * x.numel() / seconds(lambda: y.copy_(x)) / 1e12:.2f} TB/s, bf16 products of 8192 "
                f"{2 * 8192**3 / seconds(lambda: a @ b) / 1e12:.0f} TFLOP/s")


def kernels(report: Report, _work: Path, _small: bool):
    bundle = os.environ.get("IDISTILL_BUNDLE")
    folder = Path(bundle) / "lib" if bundle else ROOT / "build"
    code, text = said(["cuda_kernel_check", folder / "libidistill_cuda.so"], 90)
    report.line("  " + text.strip().replace("\n", "\n  "))
    report.check("fused kernels", code == 0, f"exit code {code}")


def passes(report: Report, _work: Path, _small: bool):
    for program, suite in (("unit_influence", "influence_places"), ("unit_embedding", "embedding_places")):
        code, text = said([program, f"--run_test={suite}", "--color_output=no"], 120, {"IDISTILL_TEST_DEVICE": "cuda"})
        report.check(f"{suite} on CUDA in 64, 32 and 16 bits", code == 0, "" if code == 0 else "\n    " + last_lines(text, 30))


def nccl(report: Report, _work: Path, _small: bool):
    code, text = said(["ranks_device_collectives", "--log_level=test_suite", "--color_output=no"], 90)
    skipped = "skipped because precondition failed" in text.split("device_collectives", 1)[-1][:400]
    report.check("NCCL with one rank", code == 0 and not skipped, last_lines(text, 4))


def made(work: Path, shape: str, vocabulary: int, samples: int) -> tuple[Path, Path]:
    """A model of this shape and a token file for it."""
    model, tokens = work / shape, work / f"{shape}-{samples}.h5"
    if not model.exists():
        code, text = said([*MAKE, "model", shape, "--out", model], 200)
        assert code == 0, text
    if not tokens.exists():
        code, text = said([*MAKE, "tokens", "--vocabulary", vocabulary, "--samples", samples, "--out", tokens], 60)
        assert code == 0, text
    return model, tokens


def arguments(work: Path, model: Path, pool: Path, target: Path, out: str, *options) -> list[str]:
    inputs = ["--model", model, "--pool", pool, "--target", f"task={target}"]
    return ["idistill_mpi", *inputs, "--overwrite", "--out", work / out, *options]


def influence_of(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["influence"][()].astype(float)


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Least of the columns', of rows that both know."""
    usable = np.isfinite(one).all(1) & np.isfinite(other).all(1)
    ranks = [np.argsort(np.argsort(x[usable], axis=0), axis=0).astype(float) for x in (one, other)]
    return min(np.corrcoef(ranks[0][:, c], ranks[1][:, c])[0, 1] for c in range(one.shape[1]))


def same_result(one: Path, other: Path) -> bool:
    with h5py.File(one) as a, h5py.File(other) as b:
        return all(np.array_equal(a[name][()], b[name][()], equal_nan=True) for name in ("influence", "weight", "gradient_norm"))


def runs(report: Report, work: Path, _small: bool):
    real = os.environ.get("IDISTILL_MODEL"), os.environ.get("IDISTILL_POOL"), os.environ.get("IDISTILL_TARGET")
    if all(real):
        model, pool, target = map(Path, real)
    else:
        model, pool = made(work, "tiny", 512, 300)
        target = made(work, "tiny", 512, 6)[1]
    exact, tangents = ["--propagation", "none"], ["--landmarks", 64, "--embedding", "jvp"]
    for name, options in (("exact", exact), ("propagated", tangents)):
        for device, dtype in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")):
            start = time.perf_counter()
            threads = CORES if device == "cpu" else 1
            place = ["--device", device, "--dtype", dtype, "--threads", threads]
            command = arguments(work, model, pool, target, f"{name}-{device}-{dtype}.h5", *options, *place)
            code, text = said(command, 150, {"OMP_NUM_THREADS": str(threads)})
            if code != 0:
                report.check(f"{name} on {device} in {dtype}", False, f"exit code {code}\n    {last_lines(text)}")
                if device == "cpu":
                    return
            else:
                report.line(f"  {name} on {device} in {dtype}: {time.perf_counter() - start:.1f} s")
        truth = influence_of(work / f"{name}-cpu-fp32.h5")
        for dtype, least, most in (("fp32", 0.9999, 1e-3), ("bf16", 0.995 if all(real) else 0.98, 0.1)):
            path = work / f"{name}-cuda-{dtype}.h5"
            if not path.exists():
                continue
            found = influence_of(path)
            usable = np.isfinite(truth).all(1)
            error = np.linalg.norm((found - truth)[usable]) / np.linalg.norm(truth[usable])
            order = spearman(truth, found)
            report.check(f"{name} in {dtype} on CUDA against the CPU", order > least and error < most,
                         f"Spearman {order:.5f}, relative error {error:.2g}")
    again = arguments(work, model, pool, target, "again.h5", *tangents, "--device", "cuda")
    units = ["--unit-flops", "1e9"]
    said(again, 100)
    report.check("two runs give the same bits", same_result(work / "again.h5", work / "propagated-cuda-bf16.h5"))
    # Killed in the middle, and continued.
    said([*again, *units], 100)
    os.replace(work / "again.h5", work / "whole.h5")
    job = subprocess.Popen([*map(str, again), *units], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = work / "again.h5.state"
    while job.poll() is None and not (state.exists() and state.stat().st_size > 0):
        time.sleep(0.01)
    time.sleep(0.5)
    job.kill()
    job.wait()
    text = said([*again, *units], 100)[1]
    kept = re.search(r"continuing: (\d+) units", text)
    same = kept is not None and same_result(work / "again.h5", work / "whole.h5")
    report.check("a run that was killed goes on to the same bits", same,
                 kept[0] if kept else "nothing was kept\n    " + last_lines(text, 4))


def speed(report: Report, work: Path, small: bool):
    for shape, vocabulary in SHAPES.items():
        if small and shape == "llama-2-7b":
            continue
        start = time.perf_counter()
        model, tokens = made(work, shape, vocabulary, 512)
        report.line(f"{shape}, batches of {BATCH_TOKENS[shape]:,} tokens (made in {time.perf_counter() - start:.0f} s)")
        samples = 512 if shape == "llama-3.2-1b" else 256
        code, text = said(["bench_passes", model, tokens, samples, 3, PASSES, "cuda", BATCH_TOKENS[shape]], 150)
        report.line("  " + text.strip().replace("\n", "\n  "))
        report.check(f"passes of {shape}", code == 0, f"exit code {code}")
        for name, least in FIRST_LANDING[shape].items():
            share = re.search(re.escape(name) + r" .*?(\d+) % of the peak", text)
            if share:
                report.check(f"{name} of {shape}: at least {least} % of the peak", int(share[1]) >= least, f"{share[1]} %")


def reference(report: Report, work: Path, _small: bool):
    """transformers and autograd, one sample at a time, gradients of down_proj alone, as published."""
    import torch
    from transformers import AutoModelForCausalLM

    model, tokens = made(work, "llama-3.2-1b", 128_256, 512)
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_("down_proj" in name)
    with h5py.File(tokens) as file:
        offsets, all_tokens, mask = file["offsets"][()], file["tokens"][()], file["label_mask"][()]
    count, seconds = 0, 0.0
    for i in range(48):
        row = slice(offsets[i], offsets[i + 1])
        ids = torch.tensor(all_tokens[row], dtype=torch.int64, device="cuda")[None]
        labels = torch.where(torch.tensor(mask[row], device="cuda").bool(), ids[0], -100)[None]
        torch.cuda.synchronize()
        start = time.perf_counter()
        decoder(input_ids=ids, labels=labels).loss.backward()
        norm = sum(p.grad.float().square().sum() for p in decoder.parameters() if p.grad is not None)
        decoder.zero_grad()
        float(norm)
        if i >= 8:
            count, seconds = count + ids.numel(), seconds + time.perf_counter() - start
    report.line(f"  transformers + autograd, one sample at a time, llama-3.2-1b: {count / seconds:,.0f} tokens/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=" ".join(SECTIONS))
    parser.add_argument("--work", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section is called {' or '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    work = options.work or Path(tempfile.mkdtemp(prefix="gpu-check-"))
    work.mkdir(parents=True, exist_ok=True)
    report = Report()
    for name in options.sections or SECTIONS:
        start = time.perf_counter()
        report.line(f"== {name}")
        try:
            globals()[name](report, work, options.small)
        except Exception as error:  # the other sections still say what they find
            report.check(name, False, f"{type(error).__name__}: {error}")
        report.line(f"   {time.perf_counter() - start:.0f} s")
    print("gpu_check: " + ("everything is right" if not report.wrong else f"WRONG: {'; '.join(report.wrong)}"))
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
