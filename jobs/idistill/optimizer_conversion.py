"""From what training leaves of an optimizer to the state that `idistill_mpi --optimizer` reads."""

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from idistill import optimizer_file
from idistill.optimizer_file import OptimizerState

# Trainer.get_decay_parameter_names of transformers
WITHOUT_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)
BIAS = re.compile(r"bias", re.IGNORECASE)
ADAPTERS = (
    "belongs to LoRA/PEFT adapters. The moments of an adapter's factors do not determine those of the weight that they "
    "change. Merge the adapters into the model (merge_and_unload() of peft, then save_pretrained()) and get moments of its "
    "weights with a short run: jobs/warmup.py --model MERGED --pool POOL.h5 --samples 5% --out DIR"
)
KNOWN = "expected the state of torch.optim's AdamW, Adam or SGD"


class Parameters(NamedTuple):
    """Of a model, each tied weight once."""

    shapes: dict[str, torch.Size]  # in the order of model.named_parameters()
    tied: bool  # input and output embedding are one


def model_parameters(directory: Path) -> Parameters:
    """From config.json, with names that are checked against the safetensors. Raises ValueError and OSError."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (directory / "config.json").is_file():
        raise ValueError(f"{directory}: has no config.json; expected a Hugging Face model directory")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    missing = shapes.keys() - _stored_names(directory)
    if missing:
        raise ValueError(f"{directory}: its safetensors have no '{sorted(missing)[0]}'; expected all weights of the model")
    return Parameters(shapes, bool(model.config.get_text_config().tie_word_embeddings))


def _stored_names(directory: Path) -> set[str]:
    from safetensors import safe_open

    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{directory}: has no *.safetensors; expected a Hugging Face model directory")
    names = set()
    for path in files:
        with safe_open(path, "pt") as file:
            names.update(file.keys())
    return names


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The optimizer's state_dict. Raises ValueError and OSError."""
    file = path
    if path.is_dir():
        if (path / "adapter_config.json").exists():
            raise ValueError(f"{path}: {ADAPTERS}")
        if any(path.glob("global_step*")) or (path / "optimizer_0").exists():
            raise ValueError(f"{path}: the optimizer's state is in shards of DeepSpeed or FSDP; expected optimizer.pt. Put it "
                             "together first (zero_to_fp32's universal checkpoint, or FSDP's full state dict)")  # fmt: skip
        file = path / "optimizer.pt"
    if not file.is_file():
        raise ValueError(f"{file}: not found; expected a checkpoint that Trainer wrote without save_only_model, or a file of "
                         "torch.save(optimizer.state_dict())")  # fmt: skip
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{file}: cannot be read as plain tensors ({reason}); {KNOWN}, written by torch.save") from error
    for key in (None, "optimizer", "optimizer_state_dict"):
        inner = checkpoint if key is None else checkpoint.get(key) if isinstance(checkpoint, dict) else None
        if isinstance(inner, dict) and {"state", "param_groups"} <= inner.keys():
            return inner
    raise ValueError(f"{file}: has no 'state' and 'param_groups'; {KNOWN}")


def converted(
    path: Path, parameters: Parameters, trainable: str | None, kind: str | None, learning_rate: float | None
) -> OptimizerState:
    """As convert(), of a file or a checkpoint of Trainer, which trains with AdamW where the file does not say it."""
    checkpoint = load_checkpoint(path)
    says_kind = all("decoupled_weight_decay" in group for group in checkpoint["param_groups"])
    kind = kind or ("adamw" if path.is_dir() and not says_kind else None)
    try:
        return convert(checkpoint, parameters, trainable, kind, learning_rate)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def convert(
    checkpoint: dict[str, Any],
    parameters: Parameters,
    trainable: str | None = None,
    kind: str | None = None,
    learning_rate: float | None = None,
) -> OptimizerState:
    """`checkpoint` is a state_dict(); `trainable` a regular expression of the parameters that were not frozen; `kind` is
    needed where the file does not tell AdamW from Adam; `learning_rate` replaces the file's. Raises ValueError."""
    state, groups = checkpoint["state"], checkpoint["param_groups"]
    found = _kind(state, groups)
    names = _names(checkpoint, parameters, trainable)
    decay = _weight_decay(groups, names, parameters)
    moments: dict[str, dict[str, torch.Tensor]] = {moment: {} for moment in optimizer_file.MOMENTS[found or "adam"]}
    for index, of_parameter in state.items():
        for moment, tensors in moments.items():
            if of_parameter.get(moment) is not None:
                tensors[names[index]] = of_parameter[moment]
    learning_rate = _learning_rate(groups) if learning_rate is None else learning_rate
    if found == "sgd":
        return OptimizerState("sgd", 0, learning_rate, decay, _sgd_constants(groups, moments), moments)
    beta1, beta2 = _same(groups, "betas")
    constants = {"beta1": beta1, "beta2": beta2, "eps": _same(groups, "eps")}
    return OptimizerState(_decoupling(groups, kind), _steps(state), learning_rate, decay, constants, moments)


def _kind(state: dict, groups: list[dict]) -> str | None:
    """ "sgd", or None for Adam and AdamW. Raises ValueError for every other optimizer."""
    fields = {field for of_parameter in state.values() for field in of_parameter}
    options = set().union(*groups)
    if fields & {"state1", "state2", "qmap1", "absmax1"}:
        raise ValueError(f"the moments are quantised (bitsandbytes, 8 bits); {KNOWN}. Continue the training for some steps "
                         "with optim=\"adamw_torch\", or make moments with jobs/warmup.py")  # fmt: skip
    if fields & {"exp_avg_sq_row", "exp_avg_sq_col"}:
        raise ValueError(f"this is Adafactor, without a second moment for every weight; {KNOWN}. Make moments with "
                         "jobs/warmup.py")  # fmt: skip
    if "nesterov" in options and fields <= {"momentum_buffer"}:
        if any(group["nesterov"] for group in groups):
            raise ValueError("this is SGD with Nesterov momentum, for which idistill has no formula; expected plain momentum")
        found = "sgd"
    elif "amsgrad" in options and "mu_product" not in fields:
        if any(group["amsgrad"] for group in groups):
            raise ValueError(f"this is Adam with amsgrad; {KNOWN} without it")
        if not state:
            raise ValueError("the optimizer has not taken a step: there are no moments; expected a checkpoint of a training")
        if fields != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"the state has {', '.join(sorted(fields))}; {KNOWN}")
        found = None
    else:
        raise ValueError(f"the state has {', '.join(sorted(fields)) or 'no tensors'} and the options "
                         f"{', '.join(sorted(options - {'params'}))}; {KNOWN}")  # fmt: skip
    if any(group.get("maximize") for group in groups):
        raise ValueError("the optimizer maximises (maximize=True); expected one that minimises the loss")
    return found


def _names(checkpoint: dict[str, Any], parameters: Parameters, trainable: str | None) -> dict[int | str, str]:
    """{index in the state: name of the parameter}, shapes checked."""
    groups = checkpoint["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    own = [name for group in groups for name in group.get("param_names", ())]
    if not own and all(isinstance(index, str) for index in indices):
        own = indices
    if any("lora_" in name for name in own):
        raise ValueError(f"the state {ADAPTERS}")
    if len(own) == len(indices):
        names = dict(zip(indices, (re.sub(r"^(module\.|_orig_mod\.)*", "", name) for name in own)))
        _check_shapes(checkpoint["state"], names, parameters)
        return names
    return _names_by_order(checkpoint, parameters, trainable)


def _names_by_order(checkpoint: dict[str, Any], parameters: Parameters, trainable: str | None) -> dict[int, str]:
    groups = [group["params"] for group in checkpoint["param_groups"] if group["params"]]
    trained = [name for name in parameters.shapes if trainable is None or re.search(trainable, name)]
    indices = [index for group in groups for index in group]
    if len(indices) != len(trained):
        raise ValueError(_wrong_count(len(indices), trained, parameters, trainable))
    problem = None
    for grouping in _groupings(trained):
        if [len(names) for names in grouping] != [len(group) for group in groups]:
            continue
        names = dict(zip(indices, (name for group in grouping for name in group)))
        try:
            _check_shapes(checkpoint["state"], names, parameters)
            return names
        except ValueError as error:
            problem = error
    if problem:
        raise problem
    raise ValueError(f"the parameters are in groups of {', '.join(str(len(group)) for group in groups)}; expected all "
                     f"{len(trained)} in one, or Trainer's two ({len(_groupings(trained)[0][0])} with weight decay). Name them "
                     "in the file: torch.optim takes (name, parameter) pairs, as model.named_parameters() gives")  # fmt: skip


def _groupings(names: list[str]) -> list[list[list[str]]]:
    """The ways in which parameters are commonly grouped, none empty: Trainer; Trainer before transformers knew a family's
    norm; all in one."""

    def parted(without: re.Pattern) -> list[list[str]]:
        parts = [[n for n in names if not without.search(n)], [n for n in names if without.search(n)]]
        return [part for part in parts if part]

    return [parted(WITHOUT_DECAY), parted(BIAS), [names]]


def _wrong_count(found: int, trained: list[str], parameters: Parameters, trainable: str | None) -> str:
    if trainable is not None:
        return f"the optimizer has {found} parameters, and {len(trained)} of the model's match --trainable '{trainable}'"
    text = f"the optimizer has {found} parameters, the model {len(trained)}"
    if parameters.tied and found == len(trained) + 1:
        return (f"{text}: input and output embeddings are one in the model (tie_word_embeddings), and were trained as two; "
                "expected the --model that was trained, untied")  # fmt: skip
    if found < len(trained):
        text += ". Where only some were trained, say which: --trainable REGEX; of LoRA adapters the state cannot be used"
    return f"{text}; expected the --model that was trained"


def _check_shapes(state: dict, names: dict[int | str, str], parameters: Parameters):
    for index, of_parameter in state.items():
        name = names[index]
        if name not in parameters.shapes:
            tied = " (its embeddings are tied: expected the --model that was trained, untied)" * parameters.tied
            raise ValueError(f"the optimizer has a parameter '{name}', which the model has not{tied}")
        for moment in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            tensor = of_parameter.get(moment)
            if tensor is not None and tensor.shape != parameters.shapes[name]:
                raise ValueError(f"{moment} of '{name}' has the shape {list(tensor.shape)}, expected "
                                 f"{list(parameters.shapes[name])} as in the model; expected the --model that was trained, and "
                                 "all its parameters in the usual order (else --trainable REGEX)")  # fmt: skip


def _weight_decay(groups: list[dict], names: dict[int | str, str], parameters: Parameters) -> float:
    """Of the groups with linear layers: matrices other than embeddings; of all where there are none."""
    matrices = [
        group for group in groups
        if any(len(parameters.shapes[names[i]]) == 2 and "embed" not in names[i] for i in group["params"])
    ]  # fmt: skip
    return float(_same(matrices or groups, "weight_decay"))


def _same(groups: list[dict], option: str) -> Any:
    """The option's value, which must not differ between groups."""
    values = [group[option] for group in groups]
    if any(value != values[0] for value in values):
        raise ValueError(f"'{option}' differs between the optimizer's groups: {', '.join(map(str, values))}; expected one value")
    value = values[0]
    return value.item() if isinstance(value, torch.Tensor) else value


def _learning_rate(groups: list[dict]) -> float:
    rate = float(_same(groups, "lr"))
    if rate == 0:
        first = groups[0].get("initial_lr")
        raise ValueError("the learning rate is 0, the end of its schedule; say which to plan for with --learning-rate"
                         + (f" (the schedule began at {float(first)})" if first is not None else ""))  # fmt: skip
    return rate


def _steps(state: dict) -> int:
    steps = sorted({int(of_parameter["step"]) for of_parameter in state.values()})
    if len(steps) > 1:
        raise ValueError(f"the parameters have taken between {steps[0]} and {steps[-1]} steps; expected one number for all")
    return steps[0]


def _sgd_constants(groups: list[dict], moments: dict[str, dict]) -> dict[str, float]:
    momentum = float(_same(groups, "momentum"))
    if momentum and not moments["momentum_buffer"]:
        raise ValueError("SGD with momentum has not taken a step: there are no buffers; expected a checkpoint of a training")
    # torch.optim ignores dampening where there is no momentum
    return {"momentum": momentum, "dampening": float(_same(groups, "dampening")) if momentum else 0.0}


def _decoupling(groups: list[dict], kind: str | None) -> str:
    own = {group.get("decoupled_weight_decay") for group in groups}
    stored = {True: "adamw", False: "adam"}.get(own.pop()) if len(own) == 1 else None
    if stored and kind and stored != kind:
        raise ValueError(f"--kind {kind} was given, and the file says {stored}")
    if not (stored or kind):
        raise ValueError("the file does not tell AdamW from Adam (an early torch.optim wrote it); say which: --kind adamw or "
                         "--kind adam")  # fmt: skip
    return stored or kind


def without_moments(state: OptimizerState, names: Iterable[str]) -> list[str]:
    """Parameters that were never trained."""
    if state.kind == "sgd" and state.constants["momentum"] == 0:
        return []
    first = state.moments[optimizer_file.MOMENTS[state.kind][0]]
    return [name for name in names if name not in first]
