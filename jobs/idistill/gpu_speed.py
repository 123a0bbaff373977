"""Speed and memory of the program's passes on a GPU: beside the card's products, the plan, and transformers."""

import re
import time
from functools import partial

from idistill.gpu_report import last_lines, need

BATCH_TOKENS = {"llama-3.2-1b": 32_768, "llama-2-7b": 16_384, "tiny": 2048}
SAMPLES = {"llama-3.2-1b": 512, "llama-2-7b": 256, "tiny": 8}
# Of bench_passes, as it calls them; what is demanded comes first.
PASSES = {
    "gradient": "(c) gradient sketch", "jvp": "(b) jvp, rank 8", "tasks": "(c5) exact on 5 tasks", "hidden": "(b) hidden",
    "adam": "(c') of an Adam step", "propagate": "(d) propagate + select",
}  # fmt: skip
# Share of the speed of large products on the same card at the same moment.
DEMANDED = {
    ("llama-3.2-1b", "gradient"): 40, ("llama-3.2-1b", "jvp"): 30,
    ("llama-2-7b", "gradient"): 50, ("llama-2-7b", "jvp"): 40,
}  # fmt: skip
TIMES_TRANSFORMERS = 10
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def bytes_together(plan: str) -> float:
    """What `idistill_mpi plan` says that a GPU holds."""
    of_gpu = re.search(r"^Memory of one (?!rank|node)(?s:.*?)^  together +([0-9.]+) (\w+)", plan, re.M)
    if of_gpu is None:
        raise RuntimeError(f"the plan names no memory of a GPU\n    {last_lines(plan)}")
    return float(of_gpu[1]) * UNITS[of_gpu[2]]


class Speed:
    def __init__(self, trials):
        self.trials = trials
        self.report = trials.report
        self.tokens_a_second: dict[str, float] = {}  # of the gradient pass, by shape
        self.kept_bytes: dict[str, float] = {}

    def trials_of_passes(self) -> list:
        shapes = self.trials.shapes
        found = []
        for name in PASSES:
            found += [(f"{name} of {shape}", partial(self.measure, shape, name)) for shape in shapes]
            if name == "gradient":
                found += [(f"memory of {shape} against the plan", partial(self.compare_memory, shape)) for shape in shapes]
        found += [(f"gradient of {shape}, nondeterministic", partial(self.price_of_determinism, shape)) for shape in shapes]
        return found

    def trials_of_reference(self) -> list:
        return [(f"transformers at {shape}", partial(self.compare_transformers, shape)) for shape in self.trials.shapes]

    def bench(self, shape: str, name: str, *more: str) -> re.Match | None:
        """The pass's line of a process of its own: what a pass lacks does not take the others along."""
        inputs = [self.trials.model(shape), self.trials.tokens(shape, SAMPLES[shape]), SAMPLES[shape], 3]
        code, text = self.report.said(["bench_passes", *inputs, name, self.trials.device, BATCH_TOKENS[shape], *more], 150)
        title = " ".join((PASSES[name], *more))
        found = re.search(re.escape(PASSES[name]) + r" +(\d+) (?:tokens|samples)/s .*? (\d+) % of the peak of .*", text)
        if found is None or code != 0:
            self.report.check(f"{title} of {shape}", False, f"exit code {code}\n    {last_lines(text)}")
            return None
        self.report.line(f"  {shape}: {title}{found[0].removeprefix(PASSES[name])}")
        if kept := re.search(r"most memory .* ([0-9.]+) GB kept", text):
            self.report.line(f"  {kept[0].strip()}")
            self.kept_bytes.setdefault(f"{shape} {title}", 1e9 * float(kept[1]))
        return found

    def measure(self, shape: str, name: str):
        found = self.bench(shape, name)
        if found is None:
            return
        if name == "gradient":
            self.tokens_a_second[shape] = float(found[1])
        if least := DEMANDED.get((shape, name)):
            what = f"{PASSES[name]} of {shape}: at least {least} % of the peak"
            self.report.check(what, int(found[2]) >= least, f"{found[2]} %")

    def compare_memory(self, shape: str):
        """What PyTorch kept for the gradient pass must be what a run would have been planned with, or less."""
        self.trials.need_gpu()
        kept = self.kept_bytes.get(f"{shape} {PASSES['gradient']}")
        if kept is None:
            raise RuntimeError("the gradient pass was not measured")
        tokens = self.trials.tokens(shape, SAMPLES[shape])
        options = ["--propagation", "none", "--device", "cuda", "--dtype", "bf16", "--batch-tokens", BATCH_TOKENS[shape]]
        inputs = ["--model", self.trials.model(shape), "--pool", tokens, "--target", f"task={tokens}"]
        code, text = self.report.said(["idistill_mpi", "plan", *inputs, *options, "--out", self.trials.work / "planned.h5"], 100)
        planned = bytes_together(text) if code in (0, 7) else 0.0  # 7: it does not fit
        found = f"{kept / 1e9:.1f} of {planned / 1e9:.1f} GB"
        self.report.check(f"memory of {shape}: no more than planned", kept <= planned, found)

    def price_of_determinism(self, shape: str):
        self.trials.need_gpu()
        found = self.bench(shape, "gradient", "nondeterministic")
        if found is not None and shape in self.tokens_a_second:
            self.report.line(f"  deterministic algorithms take {float(found[1]) / self.tokens_a_second[shape]:.2f} times as long")

    def compare_transformers(self, shape: str):
        """autograd one sample at a time, gradients of down_proj alone, as published."""
        need("torch", "transformers", "h5py")
        import torch
        from transformers import AutoModelForCausalLM

        from idistill.reference_speed import make_gradient, read_samples

        if shape not in self.tokens_a_second:
            self.measure(shape, "gradient")
        device, dtype = (self.trials.device, torch.bfloat16 if self.trials.on_gpu else torch.float32)
        model = AutoModelForCausalLM.from_pretrained(self.trials.model(shape), dtype=dtype, attn_implementation="sdpa")
        work = make_gradient(model.to(device).eval(), "down_proj")
        read = read_samples(self.trials.tokens(shape, SAMPLES[shape]), first=48, stride=1)
        samples = [tuple(part.to(device) for part in own) for own in read]
        warm_up = samples[:8]
        for own in warm_up:
            float(work(*own))
        start = time.perf_counter()
        for own in samples[len(warm_up) :]:
            float(work(*own))
        speed = sum(own.numel() for own, _ in samples[len(warm_up) :]) / (time.perf_counter() - start)
        self.report.line(f"  transformers + autograd, one sample at a time, {shape}: {speed:,.0f} tokens/s")
        if shape in self.tokens_a_second and self.trials.on_gpu:
            times = self.tokens_a_second[shape] / speed
            what = f"gradients of {shape}: {TIMES_TRANSFORMERS} times transformers"
            self.report.check(what, times >= TIMES_TRANSFORMERS, f"{times:.1f}")
