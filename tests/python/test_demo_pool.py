import json
import sys
from collections import Counter

import demo_pool
from idistill.demo_samples import FAMILIES, generate

TARGETS = ["arithmetic", "code_tracing"]


def questions(samples):
    return {sample["messages"][0]["content"] for sample in samples}


def test_every_family_has_its_share_of_the_pool():
    pool, _ = generate(43, TARGETS)
    assert len(FAMILIES) == 12
    assert Counter(sample["source"] for sample in pool) == dict.fromkeys(FAMILIES, 100)


def test_targets_are_fresh_samples_of_their_families():
    pool, targets = generate(43, TARGETS)
    assert list(targets) == TARGETS
    for family, samples in targets.items():
        assert len(samples) == 20
        assert {sample["source"] for sample in samples} == {family}
        assert questions(samples).isdisjoint(questions(pool))


def test_ids_and_questions_differ():
    pool, targets = generate(43, TARGETS)
    samples = pool + targets["arithmetic"] + targets["code_tracing"]
    assert len({sample["id"] for sample in samples}) == len(questions(samples)) == len(samples)


def test_the_seed_decides():
    assert generate(43, TARGETS) == generate(43, TARGETS)
    assert generate(43, TARGETS) != generate(44, TARGETS)


def test_targets_do_not_change_the_pool():
    assert generate(43, TARGETS)[0] == generate(43, ["sorting"])[0]


def test_answers_are_right():
    pool, _ = generate(43, TARGETS)
    checked = Counter()
    for sample in pool:
        question, answer = (message["content"] for message in sample["messages"])
        if sample["source"] == "sorting":
            assert answer.split(", ") == sorted(question.split(": ")[1].split(", "))
        elif sample["source"] == "code_tracing":
            printed = []
            exec(question.split("\n\n")[1], {"print": printed.append})
            assert answer.endswith(f"prints {printed[0]}.")
        elif sample["source"] == "arithmetic":
            *_, last = answer.split(". ")
            assert str(eval(answer.split("away, ")[1].split(" =")[0])) in last
        else:
            continue
        checked[sample["source"]] += 1
    assert checked == {"sorting": 100, "code_tracing": 100, "arithmetic": 100}


def test_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo_pool.py", "--out", str(tmp_path / "demo"), "--targets", *TARGETS])
    demo_pool.main()
    pool, targets = generate(43, TARGETS)
    for name, samples in {"pool": pool, **targets}.items():
        lines = (tmp_path / "demo" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == samples
