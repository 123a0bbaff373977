"""jobs/study.py: a whole study of a tiny model and pool, its figures against what is there."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from idistill import propagation_quality
from idistill.model_tokenizer import load_tokenizer
from idistill.result import Result
from program import ENVIRONMENT, MPIRUN, PROGRAM
from transformers import AutoModelForCausalLM, LlamaConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "python"))

import chat_models  # noqa: E402  (the path comes first)
import commands  # noqa: E402
import study as job  # noqa: E402

SETTINGS = """
tasks = ["one", "two"]
pool = "pool.jsonl"
target = "{task}.jsonl"
evaluation = "{task}.eval.jsonl"
max-length = 64
samples = 60
seed = 43
[influence]
exact = "--propagation none --sketch none"
noisy = "--propagation none --sketch kronecker --sketch-dim 32"
[embeddings]
landmarks = 30
held-out = 20
joined = ["hidden+tail"]
[embeddings.made]
hidden = "--embedding hidden --jvp-blocks 1"
tail = "--embedding gradient-tail:1"
[refining]
budgets = ["10%"]
factors = ["3"]
options = "--sketch none"
propagated = "--landmarks 20 --embedding hidden --jvp-blocks 1"
[training]
tokens = [300]
seeds = [43, 44]
evaluated = 3
exact-match = ["two"]
options = { epochs = 1, batch-size = 4 }
[training.arms]
"random" = { arm = "random" }
"BM25" = { listed = "bm25" }
"RDS+" = { listed = "rds+" }
"noisy" = { influence = "noisy", select = "--selection top-k" }
"""
# finetune.py takes every core: threads that wait for each other leave it to what else is tested.
PATIENT = {**ENVIRONMENT, "OMP_WAIT_POLICY": "passive"}
WORDS = "hello world capital France Paris thank you goodbye night day print function".split()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("study")
    chat_models.save("chatml", directory / "model")
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=len(load_tokenizer(directory / "model")), hidden_size=32, intermediate_size=56, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(directory / "model")
    random = np.random.default_rng(2)
    for name, count in (("pool", 80), ("one", 6), ("two", 6), ("one.eval", 5), ("two.eval", 5)):
        rows = [{"prompt": " ".join(random.choice(WORDS, 4)), "completion": " ".join(random.choice(WORDS, random.integers(1, 5))),
                 "source": f"from {i % 3}"} for i in range(count)]  # fmt: skip
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "bad.jsonl").write_text(json.dumps(rows[0]) + "\n{\n")
    (directory / "study.toml").write_text(SETTINGS)
    return directory


def words(files, *options, settings="study.toml") -> list[str]:
    """Behind the name of the job."""
    inputs = ["--data", files, "--model", files / "model", "--out", files / "out", "--program", PROGRAM, "--mpirun", MPIRUN]
    return list(map(str, [files / settings, *inputs, *options]))


class Study:
    """The job within this process, whose --out has what earlier studies left there."""

    run_job, refused_job = map(staticmethod, commands.of(job))

    def __init__(self, files, monkeypatch, capfd):
        self.files, self.monkeypatch, self.capfd = files, monkeypatch, capfd
        for name, value in PATIENT.items():
            monkeypatch.setenv(name, value)

    def lines(self, *options, **settings) -> list[str]:
        """What it prints."""
        self.run_job(self.monkeypatch, *words(self.files, *options, **settings))
        return self.capfd.readouterr().out.splitlines()

    def refused(self, *options, **settings) -> str:
        return self.refused_job(self.monkeypatch, *words(self.files, *options, **settings))


@pytest.fixture
def study(files, monkeypatch, capfd) -> Study:
    return Study(files, monkeypatch, capfd)


def test_a_study_from_nothing(files, study):
    command = [sys.executable, str(ROOT / "jobs/study.py"), *words(files)]
    done = subprocess.run(command, capture_output=True, text=True, env=PATIENT)
    assert done.returncode == 0, done.stderr
    out = files / "out"
    assert done.stdout == "".join(f"== {name}\n{(out / f'{name}.txt').read_text()}" for name in ("embeddings", "refining", "training"))

    drawn = next(out.glob("pool-*.jsonl")).read_bytes().splitlines(keepends=True)
    every = (files / "pool.jsonl").read_bytes().splitlines(keepends=True)
    assert len(drawn) == 60 and drawn == [line for line in every if line in drawn]

    rows = dict(re.findall(r"^(\S.*?)  +-?\d.* (\S+)$", (out / "embeddings.txt").read_text(), re.M))
    named = ["hidden alone", "hidden", "tail alone", "tail", "hidden+tail alone", "hidden+tail"]
    assert list(rows) == ["source alone", "source, lengths", *named]
    assert 0 < float(rows["hidden"]) < float(rows["tail"]) < 1 and rows["source alone"] == "-"
    assert float(rows["hidden+tail"]) == pytest.approx(float(rows["hidden"]) + float(rows["tail"]), abs=0.011)

    with Result(next(out.glob("selected-*.h5"))) as result:
        tokens = result.rows("tokens", result["selected/index"])
        assert tokens.sum() >= 300 > tokens.sum() - tokens.min()  # a smaller selection has too few
        with Result(next(out.glob("noisy-*.h5"))) as noisy:
            best = np.argsort(-noisy.scores(), kind="stable")[: len(tokens)]
        assert sorted(result["selected/index"]) == sorted(best)
    trained = {own["arm"]: own["options"] for own in (json.loads(path.read_text()) for path in (out / "outcomes").iterdir())}
    assert list(sorted(trained)) == ["BM25", "RDS+", "base", "noisy", "random"]
    evaluation = [str(files / f"{task}.eval.jsonl") for task in ("one", "two")]
    assert all(own["eval"] == evaluation and own["exact-match"] == evaluation[1:] for own in trained.values())
    assert trained["noisy"]["result"] == str(next(out.glob("selected-*.h5")))
    for arm in ("BM25", "RDS+"):
        assert trained[arm]["list"] == str(next(out.glob(f"{arm.lower()}-*.txt"))) and trained[arm]["arm"] == "listed"
    (gain, recall) = re.findall(r"^ +10% +3 +\d+ +(\S+) +(\S+) ", (out / "refining.txt").read_text(), re.M)[0]
    assert 0 < float(gain) < 1.2 and 0 < float(recall) <= 1
    assert len(list(out.glob("selected-*"))) == 1 and not list(out.rglob("select-*"))
    whole = (out / "training.txt").read_text()
    assert len(whole.splitlines()) == 6

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    table = study.lines("--only", "training", "--arms", "random", "noisy")[1:]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")} == before
    assert [line.split()[1] for line in table[1:]] == ["base", "random", "noisy"] and table[0].endswith("two.eval %  mean - random")
    assert (out / "training.txt").read_text() == whole  # a part is not the table


PROPAGATION = """
[propagation]
samples = 50
held-out = 20
targets = 3
labelled = "20"
[propagation.influence]
gradient = "--influence gradient --sketch none --contrast 0"
delift-se = "--influence delift-se --sentence-embedding {sentences}"
[propagation.by]
"kernel ridge" = "--propagation kernel-ridge --embedding {sentences}"
network = "--propagation network --embedding {sentences}"
"""
INFLUENCES = """
less = "--influence less --checkpoint {warm}:1e-4 --propagation none"
selectit = "--influence selectit --ratings {ratings} --propagation network --embedding hidden --jvp-blocks 1 --landmarks 20"
"""


def test_training_by_other_influences(files, study):
    """Files that they read are made, SelectIT gets no targets, and the first targets alone count."""
    text = SETTINGS.replace("seed = 43\n", 'seed = 43\ntargets = 2\nwarmup = "--max-steps 1"\n', 1)
    text = text.replace("[embeddings]", INFLUENCES + "[embeddings]", 1)
    text += '"less" = { influence = "less", select = "--selection top-k" }\n'
    text += '"selectit" = { influence = "selectit", select = "--selection top-k" }\n'
    (files / "influences.toml").write_text(text)
    options = ["--only", "training", "--arms", "random", "less", "selectit", "--seeds", "43"]
    assert [line.split()[1] for line in study.lines(*options, settings="influences.toml")[2:]] == ["base", "random", "less", "selectit"]
    with Result(next((files / "out").glob("less-*.h5"))) as less, Result(next((files / "out").glob("selectit-*.h5"))) as rated:
        assert len(less.texts("column/name")) == 4 and less["column/task"].tolist() == [0, 0, 1, 1]
        assert rated.tasks == ["quality"] and len(rated["landmark/index"]) == 20
    (files / "influences.toml").write_text(text.replace('warmup = "--max-steps 1"\n', ""))
    missing = study.refused(*options, settings="influences.toml")
    assert "warmup: is missing; expected options of jobs/warmup.py, which {warm} needs" in missing


def test_propagations_are_compared(files, study):
    """Four rows, with the figures that propagation_check.py gives for the same files."""
    (files / "propagation.toml").write_text(SETTINGS + PROPAGATION)
    lines = study.lines("--only", "propagation", settings="propagation.toml")
    found = {(row[0], " ".join(row[1:-5])): row[-5:-1] for row in map(str.split, lines[3:])}
    names = [(own, by) for own in ("gradient", "delift-se") for by in ("kernel ridge", "network")]
    assert list(found) == names
    out = files / "out"
    for own, by in names:
        exact, result = next(out.glob(f"exact-{own}-*.h5")), next(out.glob(f"{own}-by-{by.replace(' ', '-')}-*.h5"))
        checked = list(propagation_quality.check(argparse.Namespace(exact=exact, results=[result])))[1].split()
        assert checked[3:7] == found[own, by] and int(checked[1]) == 20
    with Result(next(out.glob("exact-delift-se-*.h5"))) as exact:
        assert len(exact) == 20 and len(exact.texts("column/name")) == 6


@pytest.mark.parametrize(
    "wrong, problem",
    [
        (("samples = 60", "samples = 600"), "has 80 lines; expected 600"),
        (("tokens = [300]", "tokens = [30000]"), "30000 are more than all 60 samples have"),
        (('influence = "noisy"', 'influence = "nosy"'), "influence.nosy: is missing"),
        (('listed = "bm25"', 'listed = "bm52"'), "expected bm25 or rds"),
        (('{ arm = "random" }', '{ seed = 1 }'), "training.arms.random: expected select, listed or arm, found seed"),
        (('target = "{task}.jsonl"', 'target = "bad.jsonl"'), "bad.jsonl: line 2: not valid JSON"),
        (("seed = 43\n", ""), "seed: is missing"),
        (('pool = "pool.jsonl"', 'pool = "pond.jsonl"'), "pond.jsonl: no such file; expected below --data"),
        (("evaluated = 3\n", ""), "training.evaluated: is missing"),
        (('exact-match = ["two"]', 'exact-match = ["three"]'), "training.exact-match: 'three' is none of one, two"),
        (('"hidden+tail"', '"hidden+tale"'), "embeddings.joined: 'tale' is none of hidden, tail"),
    ],
)
def test_what_a_study_refuses(files, study, wrong, problem):
    (files / "wrong.toml").write_text(SETTINGS.replace(*wrong))
    said = study.refused("--only", "training", settings="wrong.toml")
    assert said.startswith("study.py: ") and re.search(problem, said)
