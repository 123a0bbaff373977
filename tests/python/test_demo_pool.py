import json
import sys
from collections import Counter

import demo_pool

TARGETS = ["arithmetic", "code_tracing"]


def questions(samples):
    return {sample["messages"][0]["content"] for sample in samples}


def test_every_family_has_its_share_of_the_pool():
    pool, _ = demo_pool.generate(43, TARGETS)
    assert len(demo_pool.FAMILIES) == 12
    assert Counter(sample["source"] for sample in pool) == dict.fromkeys(demo_pool.FAMILIES, 100)


def test_targets_are_fresh_samples_of_their_families():
    pool, targets = demo_pool.generate(43, TARGETS)
    assert list(targets) == TARGETS
    for family, samples in targets.items():
        assert len(samples) == 20
        assert {sample["source"] for sample in samples} == {family}
        assert questions(samples).isdisjoint(questions(pool))


def test_ids_and_questions_differ():
    pool, targets = demo_pool.generate(43, TARGETS)
    samples = pool + targets["arithmetic"] + targets["code_tracing"]
    assert len({sample["id"] for sample in samples}) == len(questions(samples)) == len(samples)


def test_the_seed_decides():
    assert demo_pool.generate(43, TARGETS) == demo_pool.generate(43, TARGETS)
    assert demo_pool.generate(43, TARGETS) != demo_pool.generate(44, TARGETS)


def test_targets_do_not_change_the_pool():
    assert demo_pool.generate(43, TARGETS)[0] == demo_pool.generate(43, ["sorting"])[0]


def test_answers_are_right():
    pool, _ = demo_pool.generate(43, TARGETS)
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
    pool, targets = demo_pool.generate(43, TARGETS)
    for name, samples in {"pool": pool, **targets}.items():
        lines = (tmp_path / "demo" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == samples
