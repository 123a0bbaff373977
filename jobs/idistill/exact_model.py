"""Losses of a model in fp64 throughout, with exact gradients and Hessian products by autograd, of chosen linear layers.

Independent of the C++ program: transformers' model, PyTorch's differentiation. transformers rounds to fp32 within a model of
any type, in its norms and its softmax; both are replaced here, or rounding would drown what a small step does.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from idistill.token_file import TokenFile, is_labelled

ATTENTION = "idistill_fp64"


class Sample(NamedTuple):
    row: int  # in its token file
    tokens: torch.Tensor  # (n) int64
    labelled: torch.Tensor  # positions whose token's prediction counts, none of them 0


def draw_samples(path: Path, count: int, longest: int | None, seed: int) -> tuple[list[Sample], int]:
    """`count` samples with labels, of at most `longest` tokens, at random but in their file's order; and the file's rows.

    Raises ValueError where there are fewer.
    """
    with TokenFile(path) as file:
        order = torch.randperm(len(file), generator=torch.Generator().manual_seed(seed)).tolist()
        drawn = []
        for row in order:
            if len(drawn) == count:
                break
            tokens, mask = file[row]
            if is_labelled(mask) and (longest is None or len(tokens) <= longest):
                labelled = torch.from_numpy(mask[1:].nonzero()[0] + 1)
                drawn.append(Sample(row, torch.from_numpy(tokens).long(), labelled))
        rows = len(file)
    if len(drawn) < count:
        limit = f" and at most {longest} tokens" if longest is not None else ""
        raise ValueError(f"{path}: {len(drawn)} of its {rows} samples have labels{limit}; expected {count} or more")
    return sorted(drawn), rows


class ExactModel:
    """Vectors are fp64 and of `size` numbers: the chosen weights one after the other, in the model's order."""

    def __init__(self, directory: Path, chosen: str):
        """`chosen`: regular expression of linear layers' names. Raises ValueError and OSError."""
        disable_progress_bar()
        AttentionInterface.register(ATTENTION, _attention)
        AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)  # one sample at a time: causal is all
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation=ATTENTION)
        self._model = model.eval().requires_grad_(False)
        self._base, self._head = model.base_model, model.get_output_embeddings()
        layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not self._head}
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = _rms_norm.__get__(module)
        self.parameters = {f"{n}.weight": m.weight.requires_grad_() for n, m in layers.items() if re.search(chosen, n)}
        if not self.parameters:
            raise ValueError(f"{directory}: no linear layer matches '{chosen}'; found {', '.join(sorted(layers)[:4])}, ...")
        self.shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        self.size = sum(parameter.numel() for parameter in self.parameters.values())

    def loss(self, sample: Sample) -> torch.Tensor:
        """Mean cross entropy over the labelled tokens."""
        hidden = self._base(input_ids=sample.tokens[None], use_cache=False).last_hidden_state[0]
        logits = self._head(hidden[sample.labelled - 1])
        return torch.nn.functional.cross_entropy(logits, sample.tokens[sample.labelled])

    @torch.no_grad()
    def mean_loss(self, samples: list[Sample]) -> float:
        return sum(self.loss(sample).item() for sample in samples) / len(samples)

    def gradient(self, sample: Sample) -> torch.Tensor:
        return _flat(torch.autograd.grad(self.loss(sample), list(self.parameters.values())))

    def mean_gradient(self, samples: list[Sample]) -> torch.Tensor:
        return sum(self.gradient(sample) for sample in samples) / len(samples)

    def hessian_products(
        self, samples: list[Sample], vectors: Callable[[], Iterable[torch.Tensor]]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Parts (i, h) whose sum over all parts of i is H v_i, H the Hessian of the mean loss: by double backward.

        `vectors` gives the v_i anew for every sample."""
        parameters = list(self.parameters.values())
        for sample in samples:
            gradient = torch.autograd.grad(self.loss(sample), parameters, create_graph=True)
            for i, vector in enumerate(vectors()):
                product = torch.autograd.grad(gradient, parameters, self.split(vector), retain_graph=True)
                yield i, _flat(product) / len(samples)

    def weights(self) -> torch.Tensor:
        return _flat(self.parameters.values()).detach()

    @torch.no_grad()
    def set_weights(self, vector: torch.Tensor):
        for parameter, part in zip(self.parameters.values(), self.split(vector)):
            parameter.copy_(part)

    def split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Views of a vector, one a weight, in its shape."""
        parts = vector.split([parameter.numel() for parameter in self.parameters.values()])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters.values())]


def _flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _rms_norm(self, hidden: torch.Tensor) -> torch.Tensor:
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def _attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """Causal attention of plain products, which differentiate twice. (1, heads, n, head size) each."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    future = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).triu(1)
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(future, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None
