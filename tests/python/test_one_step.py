import sys

import numpy as np
import one_step
import pytest
import tiny_models
import torch
from idistill import optimizer_file, optimizer_step, step_check
from idistill.exact_model import ExactModel, draw_samples
from idistill.optimizer_conversion import convert, model_parameters
from idistill.optimizer_file import OptimizerState
from idistill.step_check import OneStep
from result_files import write_result
from tiny_models import FAMILIES, load, take_steps

torch.set_num_threads(1)  # tiny products: threads would only wait for each other
OPTIMIZERS = {
    "plain": (torch.optim.SGD, dict(lr=0.05)),
    "sgd": (torch.optim.SGD, dict(lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.1)),
    "adamw": (torch.optim.AdamW, dict(lr=1e-3, betas=(0.8, 0.95), weight_decay=0.1)),
    "adam": (torch.optim.Adam, dict(lr=1e-3, betas=(0.8, 0.95), weight_decay=0.1)),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one_step")
    for family in FAMILIES:
        tiny_models.save_model(family, directory / family)
    tiny_models.write_tokens(directory / "pool.h5", 14, 1, without_labels=2)
    tiny_models.write_tokens(directory / "target.h5", 3, 2)
    return directory


def trained_state(directory, name: str) -> OptimizerState:
    """After real steps of the real optimizer, which have touched every weight."""
    kind, options = OPTIMIZERS[name]
    model = load(directory)
    optimizer = kind(model.parameters(), **options)
    take_steps(model, optimizer)
    return convert(optimizer.state_dict(), model_parameters(directory))


def make(files, family: str = "llama", name: str = "adamw", parameters: str = "down_proj") -> OneStep:
    pool, _ = draw_samples(files / "pool.h5", 10, None, 3)
    targets, _ = draw_samples(files / "target.h5", 3, None, 3)
    return OneStep(ExactModel(files / family, parameters), trained_state(files / family, name), pool, targets)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slopes(family, name, files):
    problem = make(files, family, name)
    weights, _ = problem.weights("first-order", 4, 0.01, None)
    check = problem.check(problem.gradient_by_training(weights))
    first, second = check.slopes
    assert check.passed and 1.9 <= first <= 2.1 and 2.8 <= second <= 3.2
    assert check.fit[0].eta / check.fit[-1].eta >= 9.99 and check.fit[-1].second_error > 50 * check.noise > 0


def test_slopes_of_attention_layers(files):
    problem = make(files, "qwen3", "adamw", "q_proj|k_proj|v_proj")
    assert problem.check(problem.mean_gradient(np.ones(10))).passed


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_a_formula_without_its_constant_is_found_out(name, files):
    problem = make(files, name=name)
    problem.formula = problem.formula._replace(constant=0.9 * problem.formula.constant)
    check = problem.check(problem.mean_gradient(np.ones(10)))
    assert not check.passed and check.slopes[0] < 1.5


def test_a_hessian_that_is_wrong_is_found_out(files, monkeypatch):
    problem = make(files)
    exact = problem.model.hessian_products
    monkeypatch.setattr(problem.model, "hessian_products", lambda *a: ((i, 1.1 * part) for i, part in exact(*a)))
    check = problem.check(problem.mean_gradient(np.ones(10)))
    assert not check.passed and check.slopes[0] > 1.9 and check.slopes[1] < 2.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_held_step_is_the_formula(name, files):
    problem = make(files, name=name)
    gradient = problem.mean_gradient(np.ones(10))
    moved = problem.model.weights() - optimizer_step.step(problem.state, problem.model, gradient, 0.01, held=True)
    formula = problem.formula
    torch.testing.assert_close(moved, 0.01 * (formula.scale * gradient + formula.constant), rtol=1e-9, atol=1e-16)


def test_held_step_is_torch_optim_where_the_second_moment_does_not_change(files):
    """v (1 - beta2) g^2 / (1 - beta2) = v: with v = g^2, the real AdamW holds its second moment too."""
    problem = make(files)
    gradient = problem.mean_gradient(np.ones(10))
    for name, part in zip(problem.model.parameters, problem.model.split(gradient)):
        problem.state.moments["exp_avg_sq"][name] = part**2
    steps = [optimizer_step.step(problem.state, problem.model, gradient, 0.01, held) for held in (True, False)]
    torch.testing.assert_close(*steps, rtol=1e-12, atol=0)


def test_untouched_weights_stay(files):
    problem = make(files)
    name = next(iter(problem.model.parameters))
    for moment in problem.state.moments.values():
        moment[name][0] = 0
    formula = optimizer_step.formula(problem.state, problem.model)
    assert formula.untouched == len(problem.state.moments["exp_avg"][name][0])
    row = slice(0, formula.untouched)
    assert formula.scale[row].eq(0).all()
    problem.formula = formula
    moved = optimizer_step.step(problem.state, problem.model, torch.ones(problem.model.size).double(), 0.01, held=True)
    torch.testing.assert_close(moved[row], problem.model.weights()[row] * (1 - 0.01 * 0.1))
    assert problem.check(problem.mean_gradient(np.ones(10))).passed


def test_model_is_transformers(files):
    """But for what transformers rounds to fp32 within; labels shift as they do there."""
    sample = draw_samples(files / "pool.h5", 1, None, 0)[0][0]
    for family in FAMILIES:
        labels = torch.full_like(sample.tokens, -100)
        labels[sample.labelled] = sample.tokens[sample.labelled]
        expected = load(files / family)(input_ids=sample.tokens[None], labels=labels[None]).loss.item()
        assert ExactModel(files / family, "down").mean_loss([sample]) == pytest.approx(expected, rel=1e-5)


def test_hessian_products_are_differences_of_gradients(files):
    problem = make(files)
    vector = torch.randn(problem.model.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = sum(part for _, part in problem.model.hessian_products(problem.targets, lambda: [vector]))
    before = problem.model.weights()
    gradients = []
    for sign in (1, -1):
        problem.model.set_weights(before + sign * 1e-5 * vector)
        gradients.append(problem.model.mean_gradient(problem.targets))
    assert (product - (gradients[0] - gradients[1]) / 2e-5).norm() < 1e-6 * product.norm()


def test_curvature_predicts_as_the_step_does(files):
    """p.w and w'Qw of the weighted problem are the parts of the prediction that depend on w."""
    problem = make(files)
    of_constant, q = problem.curvature()
    np.testing.assert_allclose(q, q.T, atol=1e-10 * abs(q).max())
    p, eta = problem.influence(problem.target_gradient), 0.01
    weights = np.random.default_rng(0).random(10)
    none, some = (problem.prediction(problem.mean_gradient(w)) for w in (np.zeros(10), weights))
    change = (some[0] - none[0]) * eta + (some[1] - none[1]) * eta**2
    expected = -eta / 10 * ((p - eta * of_constant) @ weights) + eta**2 / 20 * weights @ q @ weights
    assert change == pytest.approx(expected, rel=1e-9)


def test_samples_have_labels_and_fit(files):
    samples, rows = draw_samples(files / "pool.h5", 12, None, 1)
    assert rows == 14 and [s.row for s in samples] == list(range(2, 14))
    short, _ = draw_samples(files / "pool.h5", 3, 15, 1)
    assert all(len(s.tokens) <= 15 for s in short)
    with pytest.raises(ValueError, match="12 of its 14 samples have labels; expected 13"):
        draw_samples(files / "pool.h5", 13, None, 1)


# --- the command ------------------------------------------------------------------------------------------------------


def run(monkeypatch, files, *arguments):
    own = ["--model", files / "llama", "--pool", files / "pool.h5", "--target", files / "target.h5", "--targets", 3]
    monkeypatch.setattr(sys, "argv", ["one_step.py", *map(str, [*own, *arguments])])
    with pytest.raises(SystemExit) as ended:
        one_step.main()
    return ended.value.code


def test_command_with_adamw(files, tmp_path, monkeypatch, capsys):
    optimizer_file.write(tmp_path / "o.safetensors", trained_state(files / "llama", "adamw"))
    code = run(monkeypatch, files, "--samples", 10, "--optimizer", tmp_path / "o.safetensors", "--weights", "second-order")
    said = capsys.readouterr().out
    assert code == 0 and "adamw after 3 steps" in said and "as the theory says" in said
    assert "second moment sees the weighted gradient" in said and "by torch.optim" in said
    gap = float(said.split("slope of the gap ")[1].split(":")[0])
    assert 0.8 < gap < 1.2
    assert sum(line.split()[1:2] == ["top-k"] for line in said.splitlines()) == 3


def test_command_with_the_weights_of_a_result(files, tmp_path, monkeypatch, capsys):
    write_result(
        tmp_path / "w.h5", ids=[f"s{i}" for i in range(14)], sources=["test"] * 14, scores=np.zeros((14, 1)), tasks=["t"], columns=["t"],
        column_task=[0], selected=range(14), selected_columns=[0] * 14, weights=np.arange(14) % 13,
        norms=np.r_[np.ones(7), np.full(6, 2), np.nan],
    )  # fmt: skip
    assert run(monkeypatch, files, "--samples", 12, "--weights", tmp_path / "w.h5", "--compare") == 0
    said = capsys.readouterr().out
    assert "11 positive" in said and "torch.optim" not in said and "after one step" not in said
    weights = step_check.file_weights(tmp_path / "w.h5", 14, draw_samples(files / "pool.h5", 12, None, 43)[0])
    expected = np.r_[2, 3, 4, 5, 6, 3.5, 4, 4.5, 5, 5.5, 6, 0]
    np.testing.assert_allclose(weights, 12 * expected / expected.sum())
    with pytest.raises(ValueError, match="has weights of 14 samples, --pool has 13"):
        step_check.file_weights(tmp_path / "w.h5", 13, [])


def test_what_the_command_refuses(files, tmp_path, monkeypatch):
    assert "no linear layer matches 'none'" in run(monkeypatch, files, "--samples", 4, "--parameters", "none")
    assert "not a regular expression" in run(monkeypatch, files, "--samples", 4, "--parameters", "(")
    assert "expected between 1 and the 4 samples" in run(monkeypatch, files, "--samples", 4, "--select", "5")
    assert "none.h5" in run(monkeypatch, files, "--samples", 4, "--weights", tmp_path / "none.h5")
    with pytest.raises(ValueError, match="fewer layers with --parameters"):
        step_check.check_memory(1000, 10**12)


def test_wrong_slopes_are_an_exit_code(files, monkeypatch, capsys):
    exact = step_check.formula
    monkeypatch.setattr(step_check, "formula", lambda *a: exact(*a)._replace(scale=1.2 * exact(*a).scale))
    assert run(monkeypatch, files, "--samples", 10, "--compare") == 1
    assert "NOT AS THE THEORY SAYS" in capsys.readouterr().out
