"""transformers on the work of the program's passes, one sample at a time."""

import time

import torch
from torch.func import functional_call, jvp
from transformers import AutoModelForCausalLM

from idistill.token_file import TokenFile, is_labelled

BLOCKS, TANGENTS = 4, 2  # the program's defaults


def read_samples(path, first, stride):
    """Every stride-th of the first samples that has a label token."""
    samples = []
    with TokenFile(path) as file:
        for i in range(0, min(first, len(file)), stride):
            tokens, mask = file[i]
            if is_labelled(mask):
                samples.append((torch.from_numpy(tokens).long()[None], torch.from_numpy(mask).bool()[None]))
    return samples


def make_jvp(model):
    base = model.model
    base.layers = base.layers[:BLOCKS]
    parameters = {n: p.detach() for n, p in base.named_parameters() if n != "norm.weight"}
    torch.manual_seed(43)
    directions = [{n: torch.randn_like(p) for n, p in parameters.items()} for _ in range(TANGENTS)]

    def work(tokens, _):
        def last_hidden(p):
            return functional_call(base, p, (tokens,)).last_hidden_state[0, -1]

        return [jvp(last_hidden, (parameters,), (direction,))[1] for direction in directions]

    return work


def make_gradient(model, chosen=""):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(chosen in name)

    def work(tokens, mask):
        labels = tokens.masked_fill(~mask, -100)
        model.zero_grad(set_to_none=True)
        model(input_ids=tokens, labels=labels).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()

    return work


MAKE = {"jvp": make_jvp, "gradient": make_gradient, "gradient-chosen": lambda model: make_gradient(model, "down_proj")}


def tokens_per_second(what, directory, tokens, first, stride, threads):
    """Of one of MAKE."""
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    if what == "jvp":
        model.set_attn_implementation("eager")  # the fused attention has no forward-mode derivative
    work = MAKE[what](model)
    samples = read_samples(tokens, first, stride)
    work(*samples[0])
    start = time.perf_counter()
    for sample in samples:
        work(*sample)
    return sum(own.numel() for own, _ in samples) / (time.perf_counter() - start)
