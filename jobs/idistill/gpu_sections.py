"""What jobs/gpu_check.py tries of the program on a GPU: sections of trials, each of which stands by itself."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from idistill.gpu_report import Report, Skipped, last_lines, need

ROOT = Path(__file__).resolve().parents[2]
MAKE = [sys.executable, str(ROOT / "tests" / "support" / "python" / "gpu_models.py")]
VOCABULARY = {"llama-3.2-1b": 128_256, "llama-2-7b": 32_000, "tiny": 512}
CORES = min(16, os.cpu_count() or 1)
TANGENTS = ["--landmarks", 48, "--embedding", "jvp"]
WAYS = {"exact": ["--propagation", "none"], "propagated": TANGENTS}
DATASETS = ("influence", "weight", "gradient_norm")  # of a result, bit by bit


@dataclass
class Trials:
    """What all trials share. On the device cpu they try the check itself, with a tiny model."""

    report: Report
    work: Path
    device: str = "cuda"
    small: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def need_gpu(self):
        if not self.on_gpu:
            raise Skipped("it wants a GPU")

    @property
    def dtype(self) -> str:
        """Of what is tried twice: 16 bits take minutes on a CPU."""
        return "bf16" if self.on_gpu else "fp32"

    @property
    def shapes(self) -> list[str]:
        return ["tiny"] if not self.on_gpu else ["llama-3.2-1b"] if self.small else ["llama-3.2-1b", "llama-2-7b"]

    def model(self, shape: str) -> Path:
        """Made where there is none yet."""
        need("numpy", "torch", "h5py")
        path = self.work / shape
        return path if path.exists() else self._made(["model", shape, "--out", path], path)

    def tokens(self, shape: str, samples: int) -> Path:
        need("numpy", "torch", "h5py")
        path = self.work / f"{shape}-{samples}.h5"
        made = ["tokens", "--vocabulary", VOCABULARY[shape], "--samples", samples, "--out", path]
        return path if path.exists() else self._made(made, path)

    def _made(self, arguments, path: Path) -> Path:
        code, text = self.report.said([*MAKE, *arguments], 200)
        if code != 0:
            raise RuntimeError(last_lines(text))
        return path


def machine(trials: Trials):
    need("torch")
    import torch

    report = trials.report
    report.line(f"  torch {torch.__version__}, CUDA {torch.version.cuda}")
    trials.need_gpu()
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    report.line(f"  {report.said(asked, 20)[1].strip()}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")
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
    del x, y, a, b
    torch.cuda.empty_cache()


def kernels(trials: Trials):
    trials.need_gpu()
    bundle = os.environ.get("IDISTILL_BUNDLE")
    folder = Path(bundle) / "lib" if bundle else ROOT / "build"
    if not (folder / "libidistill_cuda.so").exists():
        raise Skipped("they are not built here")
    code, text = trials.report.said(["cuda_kernel_check", folder / "libidistill_cuda.so"], 90)
    trials.report.line("  " + text.strip().replace("\n", "\n  "))
    trials.report.check("fused kernels", code == 0, f"exit code {code}")


def suite_of_passes(program: str, suite: str, trials: Trials):
    environment = {"IDISTILL_TEST_DEVICE": "cuda"} if trials.on_gpu else {}
    code, text = trials.report.said([program, f"--run_test={suite}", "--color_output=no"], 120, environment)
    trials.report.check(f"{suite} in 64, 32 and 16 bits", code == 0, "" if code == 0 else "\n    " + last_lines(text, 30))


def nccl(ranks: int, trials: Trials):
    trials.need_gpu()
    need("torch")
    import torch

    if ranks > 1 and torch.cuda.nccl.version() < (2, 30):
        raise Skipped("NCCL before 2.30 takes one rank a GPU")
    command = ["ranks_device_collectives", "--log_level=test_suite", "--color_output=no"]
    several = ["mpirun", "--oversubscribe", "-n", ranks] if ranks > 1 else []
    code, text = trials.report.said([*several, *command], 90, {"NCCL_MULTI_RANK_GPU_ENABLE": "1"} if ranks > 1 else {})
    skipped = "skipped because precondition failed" in text.split("device_collectives", 1)[-1][:400]
    trials.report.check(f"NCCL, ranks on one GPU: {ranks}", code == 0 and not skipped, last_lines(text, 4))


def place(device: str, dtype: str) -> list:
    """Options; the bits of a CPU follow from its threads too."""
    return ["--device", device, "--dtype", dtype, "--threads", CORES if device == "cpu" else 1]


class Runs:
    """Whole runs: of SmolLM2 where IDISTILL_MODEL, IDISTILL_POOL and IDISTILL_TARGET say where it is, else of random numbers."""

    def __init__(self, trials: Trials):
        self.trials = trials
        given = [os.environ.get(f"IDISTILL_{name}") for name in ("MODEL", "POOL", "TARGET")]
        self.real = all(given) and trials.on_gpu
        self.given = [Path(path) for path in given] if self.real else []

    def command(self, out: Path, *options) -> list:
        need("h5py", "numpy")
        counts = (300, 6) if self.trials.on_gpu else (60, 4)
        made = self.given or [self.trials.model("tiny"), *(self.trials.tokens("tiny", count) for count in counts)]
        model, pool, target = made
        inputs = ["--model", model, "--pool", pool, "--target", f"task={target}"]
        short = [] if self.trials.on_gpu else ["--sketch-dim", 512, "--contrast", 0]
        return ["idistill_mpi", *inputs, "--overwrite", "--out", out, *short, *options]

    def result(self, way: str, device: str, dtype: str) -> Path:
        """Of such a run, made where there is none yet."""
        out = self.trials.work / f"{way}-{device}-{dtype}.h5"
        if out.exists():
            return out
        start = time.perf_counter()
        self._run(self.command(out, *WAYS[way], *place(device, dtype)))
        self.trials.report.line(f"  {way} on {device} in {dtype}: {time.perf_counter() - start:.1f} s")
        return out

    def _run(self, command) -> str:
        code, text = self.trials.report.said(command, 150, {"OMP_NUM_THREADS": str(CORES if "cpu" in command else 1)})
        if code != 0:
            raise RuntimeError(f"exit code {code}\n    {last_lines(text)}")
        return text

    def against_the_cpu(self, way: str, dtype: str):
        import numpy as np

        found, truth = (influence(self.result(way, *of)) for of in ((self.trials.device, dtype), ("cpu", "fp32")))
        least, most = (0.9999, 1e-3) if dtype == "fp32" else (0.995 if self.real else 0.98, 0.1)
        usable = np.isfinite(truth).all(1)
        error = np.linalg.norm((found - truth)[usable]) / np.linalg.norm(truth[usable])
        order = spearman(truth, found)
        self.trials.report.check(f"{way} in {dtype} on {self.trials.device} against the CPU", order > least and error < most,
                                 f"Spearman {order:.5f}, relative error {error:.2g}")

    def twice(self, way: str):
        first = self.result(way, self.trials.device, self.trials.dtype)
        again = self.trials.work / "again.h5"
        self._run(self.command(again, *WAYS[way], *place(self.trials.device, self.trials.dtype)))
        self.trials.report.check(f"two {way} runs give the same bits", same_result(again, first))

    def killed(self):
        """In the middle of small units, and continued; a run that was faster than the kill is begun once more."""
        whole, again = self.trials.work / "whole.h5", self.trials.work / "again.h5"
        units = ["--unit-flops", "1e9" if self.trials.on_gpu else "1e7"]
        options = [*TANGENTS, *place(self.trials.device, self.trials.dtype), *units]
        self._run(self.command(whole, *options))
        state, kept = self.trials.work / "again.h5.state", None
        for wait in (0.5, 0.2, 0.05):
            if not self._was_killed(self.command(again, *options), state, wait):
                continue
            text = self._run(self.command(again, *options))
            if kept := re.search(r"continuing: (\d+) units", text):
                break
        same = kept is not None and same_result(again, whole)
        found = kept[0] if kept else "no run was killed in its middle"
        self.trials.report.check("a run that was killed goes on to the same bits", same, found)

    @staticmethod
    def _was_killed(command, state: Path, wait: float) -> bool:
        job = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while job.poll() is None and not (state.exists() and state.stat().st_size > 0):
            time.sleep(0.01)
        time.sleep(wait)
        ended = job.poll() is not None
        job.kill()
        job.wait()
        return not ended


def influence(path: Path):
    """(N x C) of a result, in 64 bits."""
    from idistill.result import Result

    with Result(path) as result:
        return result["influence"].astype(float)


def spearman(one, other) -> float:
    """Least of the columns', of rows that both know."""
    import numpy as np

    usable = np.isfinite(one).all(1) & np.isfinite(other).all(1)
    ranks = [np.argsort(np.argsort(x[usable], axis=0), axis=0).astype(float) for x in (one, other)]
    return min(np.corrcoef(ranks[0][:, c], ranks[1][:, c])[0, 1] for c in range(one.shape[1]))


def same_result(one: Path, other: Path) -> bool:
    import numpy as np

    from idistill.result import Result

    with Result(one) as a, Result(other) as b:
        return all(np.array_equal(a[name], b[name], equal_nan=True) for name in DATASETS)


def sections(trials: Trials) -> dict:
    """{section: [(trial, work)]}, what matters most first."""
    from idistill.gpu_speed import Speed

    runs, speed = Runs(trials), Speed(trials)
    dtypes = dict.fromkeys(("fp32", trials.dtype))
    return {
        "machine": [("machine", partial(machine, trials))],
        "kernels": [("fused kernels", partial(kernels, trials))],
        "passes": [(suite, partial(suite_of_passes, program, suite, trials)) for program, suite in
                   (("unit_influence", "influence_places"), ("unit_embedding", "embedding_places"))],
        "nccl": [(f"NCCL, ranks on one GPU: {ranks}", partial(nccl, ranks, trials)) for ranks in (1, 2)],
        "runs": [
            *((f"{way} in {dtype} against the CPU", partial(runs.against_the_cpu, way, dtype))
              for way in WAYS for dtype in dtypes),
            *((f"two {way} runs", partial(runs.twice, way)) for way in WAYS),
            ("a run that is killed", runs.killed),
        ],
        "speed": speed.trials_of_passes(),
        "reference": speed.trials_of_reference(),
    }  # fmt: skip
