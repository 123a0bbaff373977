"""DELIFT: utilities as in-context examples, against transformers one pair at a time, and against what the published code gets wrong."""

import functools
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import torch
from idistill.result import Result
from idistill.token_file import Joint, TokenFile, TokenFileWriter
from interrupting import interrupt
from program import assert_same, run, run_alone
from real_pool import needs_real_pool, samples_of, tokenise
from tiny import Inputs, joint_of, load_model, make_target, write_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer

DELIFT = ["--influence", "delift", "--propagation", "none", "--selection", "top-k"]


def distance(probabilities: torch.Tensor) -> float:
    """Of the label tokens."""
    return float((probabilities.double() - 1).norm() / len(probabilities) ** 0.5)


def probabilities(model, tokens, labels, shift: int = 1) -> torch.Tensor:
    """Of the tokens at the places `labels`, each given the tokens before it; `shift` 0 is the published code's."""
    with torch.no_grad():
        p = model(torch.as_tensor(np.asarray(tokens), dtype=torch.long)[None]).logits[0].softmax(-1)
    return p[torch.as_tensor(labels) - shift, torch.as_tensor([int(tokens[place]) for place in labels])]


# --- the real model on real samples -----------------------------------------------------------------------------------

MOST = 64  # tokens of the samples


class Pair(NamedTuple):
    tokens: list[int]
    labels: list[int]


def conversation(tokenizer, before, question, answer) -> Pair:
    """Of messages, by transformers alone: labels are what follows the generation prompt, with the end of the turn."""
    asked = [*before, question]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([*asked, answer], return_dict=False)
    assert whole[: len(prompt)] == prompt
    end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
    return Pair(whole, list(range(len(prompt), end)))


def rows_of(path, count, tokenizer):
    """The first short ones of one turn each."""
    found = []
    with open(path, encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            messages = row["messages"]
            if [message["role"] for message in messages] != ["user", "assistant"]:
                continue
            if len(tokenizer.apply_chat_template(messages, return_dict=False)) < MOST:
                found.append(row)
            if len(found) == count:
                return found


class Real:
    def __init__(self, directory: Path):
        self.directory, self.model_directory = directory, os.environ["IDISTILL_MODEL"]
        self.tokenizer = AutoTokenizer.from_pretrained(self.model_directory)
        self.model = AutoModelForCausalLM.from_pretrained(self.model_directory, dtype=torch.float32, attn_implementation="eager")
        self.rows = {"pool": rows_of(samples_of("pool"), 3, self.tokenizer),
                     "bbh": rows_of(samples_of("bbh"), 2, self.tokenizer)}  # fmt: skip
        for name, rows in self.rows.items():
            (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            tokenise(directory / f"{name}.jsonl", self.model_directory, directory / f"{name}.h5")

    def utilities(self, examples: list, targets: list, shift: int = 1, of_example=lambda messages: messages) -> np.ndarray:
        alone = [conversation(self.tokenizer, [], *row["messages"]) for row in targets]
        behind = [[conversation(self.tokenizer, of_example(example["messages"]), *row["messages"]) for row in targets] for example in examples]
        without = [distance(probabilities(self.model, *own, shift)) for own in alone]
        return np.array([[d - distance(probabilities(self.model, *pair, shift)) for d, pair in zip(without, own)] for own in behind])

    def found(self, name: str, *arguments) -> np.ndarray:
        out = self.directory / f"{name}.h5"
        run(2, "--model", self.model_directory, "--pool", self.directory / "pool.h5", *DELIFT, *arguments, "--out", out, timeout=300)
        with Result(out) as result:
            return result["influence"]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Real:
    return Real(tmp_path_factory.mktemp("real"))


@needs_real_pool
def test_utilities_are_those_of_transformers_one_pair_at_a_time(real):
    """With the chat template's conversation of both samples; and not those of the published code, which reads
    probabilities one place too late."""
    found = real.found("targets", "--target", f"bbh={real.directory / 'bbh.h5'}")
    expected = real.utilities(real.rows["pool"], real.rows["bbh"])
    assert found.shape == expected.shape == (3, 2)
    assert np.abs(found - expected).max() < 2e-5, (found, expected)
    unshifted = real.utilities(real.rows["pool"][:1], real.rows["bbh"], shift=0)
    assert np.abs(found[:1] - unshifted).min() > 1e-3
    # The example's answer is read, not its question alone.
    asked = real.utilities(real.rows["pool"][:1], real.rows["bbh"], of_example=lambda messages: messages[:1])
    assert np.abs(found[:1] - asked).min() > 1e-3


@needs_real_pool
def test_the_row_is_the_example_and_the_column_what_it_helps(real):
    """Of pairs within the pool, where a transposed matrix has the same shape."""
    found = real.found("pairs")
    expected = real.utilities(real.rows["pool"], real.rows["pool"])
    assert np.abs(found - expected).max() < 2e-5
    assert np.abs(found - expected.T).max() > 1e-2


# --- a tiny model -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joined(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("joined"), 50, 8, joints=True)


RUNS = {
    "samples": [*DELIFT],
    "tasks": [*DELIFT, "--columns", "tasks"],
    "learnt": ["--influence", "delift", "--landmarks", 20, "--embedding", "hidden", "--select", 9],
}


@pytest.fixture(scope="module")
def result_of(joined, tmp_path_factory) -> Callable[[str, int], Path]:
    """Of one of RUNS on so many ranks, with five units a stage at least."""
    directory = tmp_path_factory.mktemp("results")

    @functools.cache
    def made(name: str, ranks: int) -> Path:
        out = directory / f"{name}-{ranks}.h5"
        run(ranks, *joined.arguments(out, *RUNS[name], "--unit-flops", 5e6))
        return out

    return made


def alone(model, target) -> float:
    return distance(probabilities(model, target.tokens, np.flatnonzero(target.mask[1:]) + 1))


def reference(model, example, target) -> float:
    """Of samples with the joints of tiny.py."""
    labels = np.flatnonzero(target.mask[1:]) + 1
    prefix, first = joint_of(example).whole(example.tokens), joint_of(target).first
    behind = np.concatenate((prefix, target.tokens[first:]))
    return alone(model, target) - distance(probabilities(model, behind, labels - first + len(prefix)))


def usable(samples):
    return [one for one in samples if len(one.tokens) and one.mask[1:].any() and 96 not in one.tokens]


def test_every_pair_and_what_cannot_be_used(joined, result_of):
    """Rows and columns keep their samples where others before them are left out: by id, against one pair at a time."""
    model = load_model(joined.model)
    with Result(result_of("samples", 3)) as result:
        by_id = {one.id: one for own in joined.targets.values() for one in own}
        columns = [by_id[name] for name in result.texts("column/name")]
        assert [one.id for one in columns] == [one.id for own in joined.targets.values() for one in usable(own)]
        assert result["column/label_tokens"].tolist() == [int(one.mask[1:].sum()) for one in columns]
        reasons = dict(zip(result["quarantine/index"].tolist(), result.texts("quarantine/reason")))
        assert reasons == joined.reasons
        influence = result["influence"]
        for row, one in enumerate(joined.pool):
            if row in reasons:
                assert np.isnan(influence[row]).all()
            if row in reasons or row % 3:
                continue
            expected = [reference(model, one, target) for target in columns]
            assert np.abs(influence[row] - expected).max() < 1e-5, row
        assert np.abs(result["column/distance"] - [alone(model, one) for one in columns]).max() < 1e-6
        assert result.attributes["utility"].startswith("distance")


def test_a_task_has_the_mean_of_its_targets(result_of):
    with Result(result_of("samples", 2)) as samples, Result(result_of("tasks", 2)) as tasks:
        task = samples["column/task"]
        for name in ("influence", "column/distance"):
            own = samples[name]
            means = np.stack([own[..., task == t].mean(-1) for t in range(2)], -1)
            assert np.allclose(tasks[name], means, atol=1e-6, equal_nan=True)
        assert tasks["column/label_tokens"].tolist() == [samples["column/label_tokens"][task == t].sum() for t in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_the_same_bits_at_any_number_of_ranks(result_of, name):
    for ranks in (2, 3, 5):
        assert_same(result_of(name, ranks), result_of(name, 1))


def without_targets(joined, out, *arguments):
    every = joined.arguments(out, *arguments)
    first = every.index("--target")
    return [*every[:first], *every[first + 1 + len(joined.target_files) :]]


def test_without_a_target_pairs_are_of_the_labelled_samples(joined, tmp_path):
    for ranks in (1, 3):
        out = tmp_path / f"{ranks}.h5"
        run(ranks, *without_targets(joined, out, "--influence", "delift", "--landmarks", 12, "--embedding", "hidden"))
    assert_same(tmp_path / "3.h5", tmp_path / "1.h5")
    model = load_model(joined.model)
    with Result(tmp_path / "3.h5") as result:
        names, ids = result.texts("column/name"), result.texts("id")
        landmarks = result["landmark/index"].tolist()
        by_id = {one.id: one for one in joined.pool}
        labelled = [row for row in landmarks if 96 not in joined.pool[row].tokens]
        assert names == [ids[row] for row in labelled]
        for row in labelled:
            expected = [reference(model, joined.pool[row], by_id[name]) for name in names]
            assert np.abs(result["influence"][row] - expected).max() < 1e-5


def test_batches_change_rounding_alone(joined, tmp_path):
    for tokens in (1, 4096):
        run_alone(*joined.arguments(tmp_path / f"{tokens}.h5", *DELIFT, "--batch-tokens", tokens))
    with Result(tmp_path / "1.h5") as one, Result(tmp_path / "4096.h5") as many:
        assert np.allclose(one["influence"], many["influence"], atol=1e-5, equal_nan=True)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_file_that_does_not_say_how_samples_are_joined(joined, tmp_path):
    pool = write_tokens(tmp_path / "older.h5", joined.pool)
    said = run(2, *joined.arguments(tmp_path / "out.h5", *DELIFT, pool=[pool]), exit_code=3)
    assert str(pool) in said and "/joint" in said and "Prepare it again with jobs/prepare.py" in said
    run_alone(*joined.arguments(tmp_path / "out.h5", "--landmarks", 20, pool=[pool]))  # others do not care


def damaged(path: Path, one, joint) -> Path:
    with TokenFileWriter(path, "0" * 64, 64, joints=True) as file:
        file.append(*one, joint)
    return path


@pytest.mark.parametrize(
    "joint, said",
    [(Joint(99, 1, np.zeros(0, np.int32)), "/joint/first[0]"), (Joint(0, 99, np.zeros(0, np.int32)), "/joint/kept[0]"),
     (Joint(0, 1, np.full(1, 97, np.int32)), "/joint/tail"), (Joint(0, 0, np.zeros(0, np.int32)), "/joint/kept[0]")],
)  # fmt: skip
def test_numbers_that_cannot_be(joined, tmp_path, joint, said):
    pool = damaged(tmp_path / "pool.h5", make_target("s", 1, 3)[0], joint)
    assert said in run_alone(*joined.arguments(tmp_path / "out.h5", *DELIFT, pool=[pool]), exit_code=3)


def test_a_file_that_was_changed(joined, tmp_path):
    pool = write_tokens(tmp_path / "pool.h5", joined.pool, joints=True)
    with h5py.File(pool, "r+") as file:
        file["joint/kept"][0] -= 1
    said = run_alone(*joined.arguments(tmp_path / "out.h5", *DELIFT, pool=[pool]), exit_code=3)
    assert str(pool) in said and "joint_sha256" in said
    run_alone(*joined.arguments(tmp_path / "out.h5", "--landmarks", 20, pool=[pool]))


def test_a_state_of_other_joints_is_not_continued(joined, tmp_path):
    """Though the samples are the same, and their fingerprint."""
    pool, out = write_tokens(tmp_path / "pool.h5", joined.pool, joints=True), tmp_path / "out.h5"
    arguments = joined.arguments(out, *DELIFT, "--unit-flops", 1, pool=[pool])
    interrupt(2, arguments, out, "pool", 5, 1)
    with TokenFile(pool) as file:
        before = file.attributes
    with TokenFileWriter(pool, "0" * 64, 64, joints=True) as file:
        for one in joined.pool:
            joint = joint_of(one)
            file.append(*one, joint._replace(tail=joint.tail + 1))
    with TokenFile(pool) as file:
        assert file.attributes["content_sha256"] == before["content_sha256"]
        assert file.attributes["joint_sha256"] != before["joint_sha256"]
    assert "joint sha256" in run_alone(*arguments, exit_code=6)


def test_what_takes_more_than_half_of_the_context_is_left_out(joined, tmp_path):
    """Known before the run; no pair is cut, and none counts as perfect."""
    run_alone(*joined.arguments(tmp_path / "out.h5", *DELIFT, "--max-context", 44))
    with Result(tmp_path / "out.h5") as result:
        reasons = dict(zip(result["quarantine/index"].tolist(), result.texts("quarantine/reason")))
        for row, one in enumerate(joined.pool):
            if row in joined.reasons:
                continue
            read = int(np.flatnonzero(one.mask)[-1]) - joint_of(one).first
            long = max(len(joint_of(one).whole(one.tokens)), read) > 22
            assert (reasons.get(row) == "too long to be joined to others") == long, row
            assert np.isnan(result["influence"][row]).all() == long
        assert "too long to be joined to others" in reasons.values()
        assert len(result["influence"][0]) < len([one for own in joined.targets.values() for one in usable(own)])


def test_what_cannot_be_joined_is_left_out(joined, tmp_path):
    """An answer that is cut off whole has no distance, which is none that is perfect."""
    with TokenFileWriter(tmp_path / "pool.h5", "0" * 64, 64, joints=True) as file:
        for i, one in enumerate(itertools.islice(usable(joined.pool), 4)):
            mask = np.zeros_like(one.mask) if i == 2 else one.mask
            file.append(one.id, one.source, one.tokens, mask, joint_of(one)._replace(first=-1) if i == 1 else joint_of(one))
    run_alone(*joined.arguments(tmp_path / "out.h5", *DELIFT, "--select", 1, pool=[tmp_path / "pool.h5"]))
    with Result(tmp_path / "out.h5") as result:
        assert np.isnan(result["influence"]).all(1).tolist() == [False, True, True, False]
        assert result.texts("quarantine/reason") == ["cannot be joined to others", "no label tokens"]
        assert result["selected/index"].tolist()[0] in (0, 3)


def test_the_plan_says_what_a_sample_is_the_example_of(joined, tmp_path):
    said = run_alone("plan", *joined.arguments(tmp_path / "out.h5", *DELIFT))
    assert "read targets alone" in said and "is the example of 16 target samples" in said
