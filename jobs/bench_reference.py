#!/usr/bin/env python3
"""Speed of transformers on the same work, one sample at a time, as the published code does: embeddings by torch.func.jvp, or
per-sample gradients by autograd (of every parameter, as a plain backward() gives them, or of the chosen layers alone).
Prints tokens per second. Used by jobs/bench.py."""

import argparse
import time

import h5py
import torch
from torch.func import functional_call, jvp
from transformers import AutoModelForCausalLM

BLOCKS, TANGENTS = 4, 2  # the program's defaults


def read_samples(path, first, stride):
    """Every stride-th of the first samples that has a label token."""
    with h5py.File(path, "r") as file:
        offsets = file["offsets"][: first + 1]
        samples = []
        for i in range(0, len(offsets) - 1, stride):
            part = slice(offsets[i], offsets[i + 1])
            mask = torch.from_numpy(file["label_mask"][part]).bool()
            if mask[1:].any():
                samples.append((torch.from_numpy(file["tokens"][part]).long()[None], mask[None]))
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["jvp", "gradient", "gradient-chosen"])
    parser.add_argument("model")
    parser.add_argument("tokens", help="token file of jobs/prepare.py")
    parser.add_argument("--first", type=int, default=256, help="samples of the file to take from (default 256)")
    parser.add_argument("--stride", type=int, default=8, help="every STRIDE-th of them (default 8)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    if arguments.what == "jvp":
        model.set_attn_implementation("eager")  # the fused attention has no forward-mode derivative
    make = {"jvp": make_jvp, "gradient": make_gradient, "gradient-chosen": lambda m: make_gradient(m, "down_proj")}
    work = make[arguments.what](model)
    samples = read_samples(arguments.tokens, arguments.first, arguments.stride)
    work(*samples[0])
    start = time.perf_counter()
    for sample in samples:
        work(*sample)
    print(sum(tokens.numel() for tokens, _ in samples) / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
