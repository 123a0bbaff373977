import commands
import optimizer_state
import pytest
import tiny_models
import torch
from idistill import optimizer_file
from idistill.optimizer_conversion import convert, model_parameters
from idistill.training import Example, Examples, collate
from safetensors import safe_open
from tiny_models import load, take_steps
from transformers import Trainer, TrainingArguments

run, refused = commands.of(optimizer_state)

ADAM = dict(lr=3e-3, betas=(0.8, 0.95), eps=1e-7, weight_decay=0.03)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return {family: tiny_models.save_model(family, directory / family) for family in ("llama", "qwen2")}


@pytest.fixture(params=["llama", "qwen2"])
def model_dir(request, models):
    return models[request.param]


def check_file(path, model, optimizer, moments=("exp_avg", "exp_avg_sq")):
    """Every parameter's moments under its own name."""
    with safe_open(path, "pt") as file:
        expected = {f"{moment}.{name}" for moment in moments for name, _ in model.named_parameters()}
        assert set(file.keys()) == expected
        for name, parameter in model.named_parameters():
            for moment in moments:
                found = file.get_tensor(f"{moment}.{name}")
                assert found.dtype == torch.float32 and torch.equal(found, optimizer.state[parameter][moment].float())
        return file.metadata()


def test_checkpoint_of_trainer(model_dir, tmp_path, monkeypatch, capsys):
    model = load(model_dir)
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(2, 90, (9,), generator=generator).int().numpy() for _ in range(8)]
    examples = Examples([Example(t, (t > 20).astype("uint8")) for t in tokens])
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=2, save_steps=3, weight_decay=0.07, adam_beta2=0.98,
        learning_rate=1e-3, lr_scheduler_type="constant", report_to="none", remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=examples, data_collator=collate)
    trainer.train()
    run(monkeypatch, tmp_path / "checkpoint-3", "--model", model_dir, "--out", tmp_path / "optimizer.safetensors")
    metadata = check_file(tmp_path / "optimizer.safetensors", model, trainer.optimizer)
    assert metadata.pop("kind") == "adamw" and metadata.pop("step") == "3"
    assert {name: float(value) for name, value in metadata.items()} == {
        "beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.07, "learning_rate": 1e-3,
    }  # fmt: skip
    assert "adamw after 3 steps" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_state_dict_of_one_group(kind, model_dir, tmp_path, monkeypatch):
    model = load(model_dir)
    optimizer = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[kind](model.parameters(), **ADAM)
    take_steps(model, optimizer)
    torch.save({"optimizer": optimizer.state_dict(), "epoch": 1}, tmp_path / "state.pt")
    run(monkeypatch, tmp_path / "state.pt", "--model", model_dir, "--out", tmp_path / "out" / "o.safetensors")
    metadata = check_file(tmp_path / "out" / "o.safetensors", model, optimizer)
    assert metadata["kind"] == kind and float(metadata["beta1"]) == 0.8 and float(metadata["weight_decay"]) == 0.03
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["o.safetensors"]


def test_sgd_with_momentum(models, tmp_path, monkeypatch):
    model = load(models["llama"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, dampening=0.2, weight_decay=0.01)
    take_steps(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    run(monkeypatch, tmp_path / "state.pt", "--model", models["llama"], "--out", tmp_path / "o.safetensors")
    metadata = check_file(tmp_path / "o.safetensors", model, optimizer, ("momentum_buffer",))
    assert metadata["kind"] == "sgd" and float(metadata["momentum"]) == 0.9 and float(metadata["dampening"]) == 0.2


def test_sgd_without_momentum_needs_no_tensors(models, tmp_path):
    model = load(models["llama"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, dampening=0.2)  # which torch.optim ignores
    take_steps(model, optimizer)
    parameters = model_parameters(models["llama"])
    optimizer_file.write(tmp_path / "o.safetensors", convert(optimizer.state_dict(), parameters))
    state = optimizer_file.read(tmp_path / "o.safetensors", parameters.shapes)
    assert state.constants == {"momentum": 0.0, "dampening": 0.0} and state.moments == {"momentum_buffer": {}}


def test_groups_of_earlier_trainers_whose_norms_decay(models):
    """Sizes of the groups tell the groupings apart: qwen2 has biases."""
    model = load(models["qwen2"])
    groups = [[p for n, p in model.named_parameters() if ("bias" in n) == bias] for bias in (False, True)]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.2}, {"params": groups[1], "weight_decay": 0.0}], lr=1e-3
    )
    take_steps(model, optimizer)
    state = convert(optimizer.state_dict(), model_parameters(models["qwen2"]))
    assert state.weight_decay == 0.2
    for name, parameter in model.named_parameters():
        assert torch.equal(state.moments["exp_avg"][name], optimizer.state[parameter]["exp_avg"])


def test_names_in_the_file_count_more_than_any_order(models):
    model = load(models["llama"])
    optimizer = torch.optim.AdamW([(f"module.{n}", p) for n, p in reversed(list(model.named_parameters()))], lr=1e-3)
    take_steps(model, optimizer)
    state = convert(optimizer.state_dict(), model_parameters(models["llama"]))
    for name, parameter in model.named_parameters():
        assert torch.equal(state.moments["exp_avg_sq"][name], optimizer.state[parameter]["exp_avg_sq"])


def test_frozen_parameters(models, tmp_path, monkeypatch):
    model = load(models["llama"])
    trained = [(n, p) for n, p in model.named_parameters() if "down_proj" in n]
    optimizer = torch.optim.AdamW([p for _, p in trained], lr=1e-3)
    take_steps(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    arguments = tmp_path / "state.pt", "--model", models["llama"], "--out", tmp_path / "o.safetensors"
    assert "say which: --trainable REGEX" in refused(monkeypatch, *arguments)
    assert "0 of the model's match" in refused(monkeypatch, *arguments, "--trainable", "none")
    assert "not a regular expression" in refused(monkeypatch, *arguments, "--trainable", "(")
    run(monkeypatch, *arguments, "--trainable", "down_proj")
    state = optimizer_file.read(tmp_path / "o.safetensors", {n: p.shape for n, p in trained})
    assert all(torch.equal(state.moments["exp_avg"][n], optimizer.state[p]["exp_avg"]) for n, p in trained)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adamw(models):
    """A state_dict, as a function since tests change it."""
    model = load(models["llama"])
    optimizer = torch.optim.AdamW(model.parameters(), **ADAM)
    take_steps(model, optimizer)

    def make():
        state = optimizer.state_dict()
        return {"state": {i: dict(s) for i, s in state["state"].items()}, "param_groups": [dict(g) for g in state["param_groups"]]}

    return make


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"state1": 0, "state2": 0, "qmap1": 0, "absmax1": 0, "step": 1}, "quantised"),
        ({"exp_avg_sq_row": 0, "exp_avg_sq_col": 0, "step": 1}, "Adafactor"),
        ({"exp_avg": 0}, "expected the state of torch.optim's AdamW, Adam or SGD"),  # Lion
        ({"step": 1, "exp_avg": 0, "exp_avg_sq": 0, "mu_product": 1}, "expected the state of torch.optim's"),  # NAdam
    ],
)
def test_other_optimizers(fields, problem, models, adamw):
    state = adamw()
    state["state"] = dict.fromkeys(state["state"], fields)
    with pytest.raises(ValueError, match=problem):
        convert(state, model_parameters(models["llama"]))


@pytest.mark.parametrize(
    "option, value, problem",
    [
        ("amsgrad", True, "amsgrad"),
        ("maximize", True, "maximises"),
        ("lr", 0.0, "--learning-rate"),
        ("decoupled_weight_decay", None, "--kind"),
    ],
)
def test_options_without_a_formula(option, value, problem, models, adamw):
    state = adamw()
    state["param_groups"][0][option] = value
    with pytest.raises(ValueError, match=problem):
        convert(state, model_parameters(models["llama"]))


def test_what_the_user_can_say(models, adamw):
    parameters, state = model_parameters(models["llama"]), adamw()
    state["param_groups"][0].update(lr=0.0)
    del state["param_groups"][0]["decoupled_weight_decay"]
    found = convert(state, parameters, kind="adam", learning_rate=1e-4)
    assert (found.kind, found.learning_rate) == ("adam", 1e-4)
    with pytest.raises(ValueError, match="the file says adamw"):
        convert(adamw(), parameters, kind="adam")


def test_shapes_steps_and_groups(models, adamw):
    parameters = model_parameters(models["llama"])
    state = adamw()
    state["state"][3]["exp_avg"] = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"exp_avg of 'model.layers.0.self_attn.v_proj.weight' has the shape \[2, 3\]"):
        convert(state, parameters)
    state = adamw()
    state["state"][3]["step"] = torch.tensor(1.0)
    with pytest.raises(ValueError, match="between 1 and 3 steps"):
        convert(state, parameters)
    state = adamw()
    indices = state["param_groups"][0]["params"]
    state["param_groups"] = [{**state["param_groups"][0], "params": part} for part in (indices[:5], indices[5:])]
    with pytest.raises(ValueError, match="in groups of 5, "):
        convert(state, parameters)
    state = adamw()
    state["state"] = {}
    with pytest.raises(ValueError, match="has not taken a step"):
        convert(state, parameters)


def test_tied_embeddings_trained_as_two(models, adamw):
    state = adamw()
    state["param_groups"][0]["params"] = [*state["param_groups"][0]["params"], 99]
    state["state"][99] = state["state"][0]
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        convert(state, model_parameters(models["llama"]))
    named = {**state, "param_groups": [{**state["param_groups"][0]}]}
    names = [*model_parameters(models["llama"]).shapes, "lm_head.weight"]
    named["param_groups"][0]["param_names"] = names
    with pytest.raises(ValueError, match="'lm_head.weight', which the model has not"):
        convert(named, model_parameters(models["llama"]))


def test_adapters(models, adamw, tmp_path, monkeypatch):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "adapter_config.json").write_text("{}")
    out = tmp_path / "o.safetensors"
    message = refused(monkeypatch, tmp_path / "checkpoint", "--model", models["llama"], "--out", out)
    assert "LoRA" in message and "merge_and_unload" in message and "jobs/warmup.py" in message and not out.exists()
    state = adamw()
    state["param_groups"][0]["param_names"] = [f"q_proj.lora_A.{i}" for i in state["param_groups"][0]["params"]]
    with pytest.raises(ValueError, match="LoRA"):
        convert(state, model_parameters(models["llama"]))


def test_files_that_are_not_there_or_not_right(models, tmp_path, monkeypatch):
    out = tmp_path / "o.safetensors"
    (tmp_path / "empty").mkdir()
    assert "optimizer.pt: not found" in refused(monkeypatch, tmp_path / "empty", "--model", models["llama"], "--out", out)
    (tmp_path / "text.pt").write_text("no tensors")
    assert "cannot be read" in refused(monkeypatch, tmp_path / "text.pt", "--model", models["llama"], "--out", out)
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.pt")
    assert "has no 'state'" in refused(monkeypatch, tmp_path / "other.pt", "--model", models["llama"], "--out", out)
    assert "config.json" in refused(monkeypatch, tmp_path / "other.pt", "--model", tmp_path / "empty", "--out", out)
    assert not out.exists()


def test_reading_what_does_not_fit(models, adamw, tmp_path):
    parameters = model_parameters(models["llama"])
    path = tmp_path / "o.safetensors"
    optimizer_file.write(path, convert(adamw(), parameters))
    with pytest.raises(ValueError, match="has no 'exp_avg.other.weight'"):
        optimizer_file.read(path, {"other.weight": torch.Size([2])})
    with pytest.raises(ValueError, match=r"shape \[32\], expected \[2\]"):
        optimizer_file.read(path, {"model.norm.weight": torch.Size([2])})
    (tmp_path / "text").write_text("no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        optimizer_file.read(tmp_path / "text", {})
