"""States that PyTorch's optimizers leave behind, as files for --optimizer, and the factors a that their next steps multiply gradients with."""

from pathlib import Path

import torch
from idistill import optimizer_file
from tiny import Sample
from truth import is_usable

DOWN = "mlp.down_proj.weight"
STEPS = 3


def trained(model: torch.nn.Module, samples: list[Sample], seed: int = 0) -> torch.optim.AdamW:
    """AdamW after some steps of an own loss on the model's down_proj layers, which stay what they are."""
    parameters = [p for name, p in model.named_parameters() if name.endswith(DOWN)]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.99), eps=1e-7, weight_decay=0.01)
    usable = [s for s in samples if is_usable(s)]
    for step in range(STEPS):
        optimizer.zero_grad()
        for sample in usable[seed + step::7]:
            tokens = torch.tensor(sample.tokens, dtype=torch.long)
            model(tokens[None], labels=tokens[None]).loss.backward()
        optimizer.step()
    with torch.no_grad():
        for parameter, values in zip(parameters, before):
            parameter.copy_(values)
    model.zero_grad()
    return optimizer


def state_of(model: torch.nn.Module, optimizer: torch.optim.AdamW) -> optimizer_file.OptimizerState:
    names = {p: name for name, p in model.named_parameters()}
    group = optimizer.param_groups[0]
    moments = {moment: {names[p]: own[moment].clone() for p, own in optimizer.state.items()} for moment in ("exp_avg", "exp_avg_sq")}
    constants = {"beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
    step = int(next(iter(optimizer.state.values()))["step"])
    return optimizer_file.OptimizerState("adamw", step, group["lr"], group["weight_decay"], constants, moments)


def save(path: Path, state: optimizer_file.OptimizerState) -> Path:
    optimizer_file.write(path, state)
    return path


def factors(model: torch.nn.Module, optimizer: torch.optim.AdamW) -> torch.Tensor:
    """(d, fp64) `a` of all down_proj layers, one after the other, with the second moments held as they are."""
    (beta1, beta2), epsilon = optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["eps"]
    rows = []
    for layer in model.model.layers:
        own = optimizer.state[layer.mlp.down_proj.weight]
        s, v = own["step"].item(), own["exp_avg_sq"].double()
        a = (1 - beta1) / (1 - beta1 ** (s + 1)) / ((v / (1 - beta2 ** (s + 1))).sqrt() + epsilon)
        rows.append(torch.where(v == 0, 0.0, a).flatten())
    return torch.cat(rows)
