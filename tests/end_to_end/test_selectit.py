"""SelectIT: what a model itself says of samples, against transformers and the formulas of the paper (arXiv 2402.16705)."""

import itertools
import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tiny
import torch
import truth
from idistill.output_file import OutputFile
from idistill.rating_conversations import instruction_and_response, read_prompts
from idistill.result import Result
from idistill.samples import read_samples
from interrupting import interrupt, left_over, units_recovered
from made_files import PROMPTS, RATINGS, write_ratings
from program import assert_same, run, run_alone, text
from real_pool import ROOT, needs_real_pool, samples_of, tokenise
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

LONG, EMPTY = "sample-20", "sample-31"  # too long to be rated


def made_up(samples, seed: int) -> dict[str, list]:
    """Three conversations of every sample, in an order of their own and with samples of others."""
    random = np.random.default_rng(seed)
    made = {}
    for own in [*samples, tiny.sample(random, "someone else", "web"), tiny.sample(random, "and another", "web")]:
        prompts = [random.integers(2, 90, random.integers(2, 6)) for _ in PROMPTS]
        made[own.id] = [np.concatenate([prompt, own.tokens]).astype(np.int32) for prompt in prompts]
    made[EMPTY] = []
    made[LONG] = [np.resize(made[LONG][0], length).astype(np.int32) for length in (12, 256, 12)]  # one longer than can be answered
    ids = list(made)
    random.shuffle(ids)
    return {own: made[own] for own in ids}


@pytest.fixture(scope="module")
def files(inputs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("selectit")
    torch.manual_seed(6)
    other = AutoModelForCausalLM.from_config(LlamaConfig(**(tiny.SIZES | {"hidden_size": 16, "num_hidden_layers": 2})))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(6.0)
    other.save_pretrained(directory / "other")
    write_ratings(directory / "ratings.h5", made_up(inputs.pool, 7))
    write_ratings(directory / "of_other.h5", made_up(inputs.pool, 8), PROMPTS, [21, 22, 23, 24, 25])
    return directory


@pytest.fixture(scope="module")
def arguments(inputs, files):
    def made(out, *extra, ratings=files / "ratings.h5") -> list:
        return ["--influence", "selectit", "--model", inputs.model, "--pool", inputs.pool_file, "--ratings", ratings, "--out", out,
                *extra]  # fmt: skip

    return made


def chances_of(model, conversations: list, ratings: list[int]) -> np.ndarray:
    """(R x K) probabilities of the ratings as next tokens, over their sum."""
    rows = []
    for tokens in conversations:
        with torch.no_grad():
            logits = model(torch.tensor(np.asarray(tokens))[None].long(), logits_to_keep=1).logits[0, -1].double()
        chance = torch.softmax(logits, 0)[ratings].numpy()
        rows.append(chance / chance.sum())
    return np.array(rows)


def sentence_score(chances: np.ndarray) -> float:
    """Written down from the paper."""
    scores = []
    for chance in chances:
        best = int(chance.argmax())
        scores.append((best + 1) * np.mean([abs(chance[k] - chance[best]) for k in range(len(chance)) if k != best]))
    return np.mean(scores) / (1 + 0.2 * np.std(scores))


def chances_in(model, inputs, made: dict[str, list], ratings) -> list[np.ndarray | None]:
    """By row of the pool; none of what cannot be rated."""
    usable = [truth.is_usable(own) and own.id not in (LONG, EMPTY) for own in inputs.pool]
    return [chances_of(model, made[own.id], ratings) if can else None for own, can in zip(inputs.pool, usable)]


def scores_of(chances: list) -> np.ndarray:
    return np.array([np.nan if own is None else sentence_score(own) for own in chances])


@pytest.fixture(scope="module")
def chances(inputs) -> list[np.ndarray | None]:
    return chances_in(tiny.load_model(inputs.model), inputs, made_up(inputs.pool, 7), RATINGS)


def test_scores_are_those_of_the_paper(inputs, chances, arguments, tmp_path):
    out = tmp_path / "out.h5"
    said = run(2, *arguments(out, "--propagation", "none", "--selection", "top-k", "--select", 30, *inputs.unit))
    expected = scores_of(chances)
    assert "2 pool samples left out: too long to be rated" in said
    with OutputFile(out) as result:
        score = result["influence"]
        assert score.shape == (len(inputs.pool), 1) and text(result["task/name"]) == text(result["column/name"]) == ["quality"]
        assert np.array_equal(np.isfinite(score[:, 0]), np.isfinite(expected))
        assert np.allclose(score[:, 0], expected, rtol=1e-4, atol=1e-6, equal_nan=True) and np.nanstd(expected) > 0.05
        with h5py.File(arguments(out)[7]) as ratings:
            assert result.attribute("ratings_sha256") == ratings.attrs["content_sha256"]
        best = np.argsort(-np.nan_to_num(score[:, 0], nan=-1), kind="stable")[:30]
        assert result["selected/index"].tolist() == best.tolist()  # the highest is best
        reasons = dict(zip(result["quarantine/index"].tolist(), text(result["quarantine/reason"])))
    numbers = {own.id: row for row, own in enumerate(inputs.pool)}
    assert reasons[numbers[LONG]] == reasons[numbers[EMPTY]] == "too long to be rated"
    assert {row: reason for row, reason in reasons.items() if reason != "too long to be rated"} == inputs.reasons


def test_another_softmax_and_the_lowest_would_select_others(chances):
    """What NN-CIFT's released code takes, the softmax of P' and then the lowest scores, is another selection."""
    known = [own for own in chances if own is not None]
    scores = np.array([sentence_score(own) for own in known])
    released = np.array([sentence_score(np.exp(own) / np.exp(own).sum(1, keepdims=True)) for own in known])
    assert released.max() < 0.9 * scores.max()
    assert set(np.argsort(-scores)[:10]).isdisjoint(np.argsort(released)[:10])


def test_several_models_count_by_their_parameters(inputs, files, chances, arguments, tmp_path):
    out = tmp_path / "out.h5"
    rater = ["--rater", f"{files / 'other'}={files / 'of_other.h5'}"]
    run(2, *arguments(out, "--propagation", "none", "--select", 20, *rater))
    other = tiny.load_model(files / "other")
    each = [scores_of(chances), scores_of(chances_in(other, inputs, made_up(inputs.pool, 8), [21, 22, 23, 24, 25]))]
    parameters = [sum(own.numel() for own in model.parameters()) for model in (tiny.load_model(inputs.model), other)]
    with OutputFile(out) as result:
        expected = np.average(each, axis=0, weights=parameters)
        assert np.allclose(result["influence"][:, 0], expected, rtol=1e-4, atol=1e-6, equal_nan=True)
    # Weights of both are known before the run.
    plans = [run_alone("plan", *arguments(out, "--propagation", "none", *extra)) for extra in ([], rater)]
    assert all("2 too long to be rated" in plan for plan in plans)
    assert f"rated by {files / 'other'} with 3 prompts, from 1 to 5" in plans[1] and str(files / "other") not in plans[0]
    size, unit = re.search(rf"weights of {files / 'other'}, beside them +([\d.]+) (\w+)", plans[1]).groups()
    assert float(size) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(4 * parameters[1], rel=0.05)


def test_same_bits_at_any_number_of_ranks(inputs, arguments, tmp_path):
    for ranks in (1, 2, 3, 5):
        run(ranks, *arguments(tmp_path / f"{ranks}.h5", "--propagation", "none", "--select", 30, *inputs.unit))
        assert_same(tmp_path / f"{ranks}.h5", tmp_path / "1.h5")


def test_propagated_from_landmarks(inputs, chances, arguments, tmp_path):
    """Exact where computed; landmarks that are not finite stay without."""
    for ranks in (1, 3):
        run(ranks, *arguments(tmp_path / f"{ranks}.h5", "--landmarks", 80, "--select", 30, *inputs.unit))
    assert_same(tmp_path / "3.h5", tmp_path / "1.h5")
    expected = scores_of(chances)
    with OutputFile(tmp_path / "1.h5") as result:
        exact = result["exact"] == 1
        assert exact.sum() + np.isnan(result["landmark/influence"]).sum() == 80
        assert np.allclose(result["influence"][exact, 0], expected[exact], rtol=1e-4, atol=1e-6)


def test_killed_run_continues_to_the_same_bits(arguments, tmp_path):
    out = tmp_path / "out.h5"
    given = arguments(out, "--propagation", "none", "--select", 30, "--unit-flops", 1)
    done = interrupt(2, given, out, "pool", 40, 1)
    said = run(3, *given)
    assert f"continuing: {done} units of an earlier run are kept" in said and units_recovered(out) == done
    run(1, *arguments(tmp_path / "whole.h5", "--propagation", "none", "--select", 30, "--unit-flops", 1))
    assert_same(out, tmp_path / "whole.h5")
    assert left_over(out) == []


def test_what_is_refused(inputs, files, arguments, tmp_path):
    out = tmp_path / "out.h5"
    exact = ["--propagation", "none", "--select", 20]
    made = made_up(inputs.pool, 7)
    first = next(own.id for own in inputs.pool if truth.is_usable(own))
    plain = ["--influence", "selectit", "--model", inputs.model, "--pool", inputs.pool_file, "--out", out, *exact]
    assert "jobs/rate.py" in run_alone(*plain, exit_code=2)
    target = ["--target", f"code={inputs.target_files['code']}"]
    assert "rates samples by themselves" in run_alone(*arguments(out, *exact, *target), exit_code=2)

    def said(*extra, **changed):
        return run_alone(*arguments(out, *exact, *extra, **changed), exit_code=3)

    missing = write_ratings(tmp_path / "missing.h5", {own: tokens for own, tokens in made.items() if own != first})
    assert f"1 missing: '{first}'" in said(ratings=missing)
    wrong = made | {first: [np.array([5, 97, 6], np.int32)] * 3}
    assert "token ids 0..96" in said(ratings=write_ratings(tmp_path / "wrong.h5", wrong))
    assert "/rating_token" in said(ratings=write_ratings(tmp_path / "rating.h5", made, ratings=[11, 500]))
    assert "at least two ratings" in said(ratings=write_ratings(tmp_path / "one.h5", made, ratings=[11]))
    cut = write_ratings(tmp_path / "cut.h5", made)
    with h5py.File(cut, "r+") as file:
        file["offsets"][7] = file["offsets"][8] + 1
    assert "/offsets[8]" in said(ratings=cut)
    with h5py.File(cut, "r+") as file:
        offsets = file["offsets"][:-1]
        del file["offsets"]
        file["offsets"] = offsets
    assert "one more than conversations, 3 an id" in said(ratings=cut)
    assert "idistill-ratings" in said(ratings=inputs.pool_file)
    assert "no-such-model" in said("--rater", f"no-such-model={files / 'ratings.h5'}")
    assert not out.exists()


@needs_real_pool
def test_real_samples_rated_by_the_real_model(tmp_path):
    """From JSON lines to scores, beside transformers' chat template and model in fp32."""
    directory = os.environ["IDISTILL_MODEL"]
    with open(samples_of("pool"), encoding="utf-8") as lines:
        pool = tmp_path / "pool.jsonl"
        pool.write_text("".join(sorted(itertools.islice(lines, 400), key=len)[:3]), encoding="utf-8")
    tokenise(pool, directory, tmp_path / "pool.h5")
    rate = [sys.executable, ROOT / "jobs" / "rate.py", pool, "--model", directory, "--out", tmp_path / "ratings.h5"]
    subprocess.run(rate, check=True, capture_output=True, timeout=300)
    out = tmp_path / "weights.h5"
    run(2, "--influence", "selectit", "--model", directory, "--pool", tmp_path / "pool.h5", "--ratings", tmp_path / "ratings.h5",
        "--propagation", "none", "--select", 2, "--out", out, timeout=300)  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    ratings = [tokenizer.convert_tokens_to_ids(str(rating)) for rating in range(1, 6)]
    expected = []
    for sample in read_samples(pool):
        instruction, response = instruction_and_response(sample)
        asked = [f"{prompt}\n\nInstruction:\n{instruction}\n\nResponse:\n{response}"
                 for prompt in read_prompts(ROOT / "jobs" / "rating_prompts.txt", 5)]  # fmt: skip
        conversations = [
            tokenizer.apply_chat_template([{"role": "user", "content": own}], add_generation_prompt=True, return_dict=False)
            for own in asked
        ]
        expected.append(sentence_score(chances_of(model, conversations, ratings)))
    with Result(out) as result:
        assert np.allclose(result["influence"][:, 0], expected, rtol=1e-4, atol=1e-4) and np.ptp(expected) > 1e-3
        assert set(result["selected/index"].tolist()) == set(np.argsort(expected)[-2:].tolist())
