"""Everything that docs/evaluation.md says of selections, measured from nothing: runs, embeddings, refining, training."""

import argparse
import json
import re
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from idistill import embedding_quality, refinement
from idistill.kept import digest
from idistill.made_files import MadeFiles
from idistill.preparation import prepare
from idistill.program_runs import Program
from idistill.propagation_study import propagation
from idistill.result import Result
from idistill.rows import row_columns, sample_id
from idistill.samples import read_rows
from idistill.whole_files import written_whole

# What a study is of, and the keys that the settings must have for it.
ALWAYS = ["tasks", "pool", "target", "evaluation", "max-length", "samples", "seed", "influence"]
PARTS = {
    "embeddings": ["landmarks", "held-out", "made"],
    "refining": ["budgets", "factors", "options", "propagated"],
    "propagation": ["samples", "held-out", "targets", "labelled", "influence", "by"],
    "training": ["tokens", "seeds", "evaluated", "exact-match", "options", "arms"],
}


class Study:
    """Files of one study, each computed when it is first asked for and kept in the directory. All raise ValueError and OSError."""

    def __init__(self, options: argparse.Namespace):
        with open(options.settings, "rb") as file:
            self.settings: dict[str, Any] = tomllib.load(file)
        self.options = options
        options.only = options.only or [part for part in PARTS if part in self.settings]
        self._check(options)
        self.out = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.program = Program(options.out, options.program, options.mpirun, options.ranks)

    def _check(self, options: argparse.Namespace):
        asked = [(name, self.settings, name) for name in ALWAYS]
        for part in options.only:
            asked += [(part, self.settings, part)]
            asked += [(f"{part}.{name}", self.settings.get(part, {}), name) for name in PARTS[part]]
        for shown, table, name in asked:
            if name not in table:
                raise ValueError(f"{options.settings}: {shown}: is missing; expected what jobs/study.toml or jobs/study_influences.toml has")
        embeddings, training = self.settings.get("embeddings", {}), self.settings.get("training", {})
        parts = [own for name in embeddings.get("joined", []) for own in name.split("+")]
        for shown, found, known in [("embeddings.joined", parts, embeddings.get("made", {})),
                                    ("training.exact-match", training.get("exact-match", []), self.settings["tasks"]),
                                    ("--arms", options.arms or [], training.get("arms", {}))]:  # fmt: skip
            if unknown := [own for own in found if own not in known]:
                raise ValueError(f"{options.settings}: {shown}: '{unknown[0]}' is none of {', '.join(known)}")
        for path in (options.data / self.settings["pool"], *self._data("target"), *self.evaluation()):
            if not path.is_file():
                raise ValueError(f"{path}: no such file; expected below --data what {options.settings} names")

    def _data(self, name: str) -> list[Path]:
        """By task."""
        return [self.options.data / self.settings[name].format(task=task) for task in self.settings["tasks"]]

    def evaluation(self) -> list[Path]:
        """JSON lines, by task."""
        return self._data("evaluation")

    def targets(self, count: int | None = None) -> list[Path]:
        """JSON lines, by task: the first `count` samples, or as many as the settings' `targets`, or all."""
        count = count or self.settings.get("targets")
        return [self._first(path, count) if count else path for path in self._data("target")]

    def _first(self, path: Path, count: int) -> Path:
        out = self.out / f"{path.name.partition('.')[0]}-{digest(count, [path])}.jsonl"
        if not out.exists():
            with written_whole(out) as partial:
                partial.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:count]))
        return out

    def drawn(self) -> Path:
        """The pool's samples that the study is of: JSON lines, in the pool's order."""
        pool, count, seed = self.options.data / self.settings["pool"], self.settings["samples"], self.settings["seed"]
        path = self.out / f"pool-{digest([count, seed], [pool])}.jsonl"
        if not path.exists():
            lines = pool.read_bytes().splitlines(keepends=True)
            if len(lines) < count:
                raise ValueError(f"{pool}: has {len(lines)} lines; expected {count}, the settings' samples, at least")
            rows = np.sort(np.random.default_rng(seed).permutation(len(lines))[:count])
            with written_whole(path) as partial:
                partial.write_bytes(b"".join(lines[row] for row in rows))
        return path

    def some_of_drawn(self, ids: list[str]) -> Path:
        """JSON lines of those with these ids, which stand in the lines."""
        path = self.out / f"some-{digest(ids, [self.drawn()])}.jsonl"
        if not path.exists():
            wanted = set(ids)
            rows = [{**(columns := row_columns(row)), "id": sample_id(row, columns)} for row in read_rows(self.drawn())]
            with written_whole(path) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"] in wanted))
        return path

    def tokens(self, samples: Path) -> Path:
        model, length = self.options.model, self.settings["max-length"]
        path = self.out / f"{samples.stem}-{digest(length, [model, samples])}.h5"
        if not path.exists():
            prepare(inputs=[samples], model=model, out=path, max_length=length, max_bad_lines=0, workers=1)
        return path

    def run_options(self, influence: str) -> list[str]:
        """Of a run with this influence on all that is drawn."""
        return MadeFiles(self, self.drawn(), self.targets()).run_options(influence)

    def influence(self, name: str) -> Path:
        """The result of the run of this name."""
        if name not in self.settings["influence"]:
            raise ValueError(f"influence.{name}: is missing; expected the options of the run that an arm or a table needs")
        return self.program.kept(name, self.run_options(self.settings["influence"][name]))

    def selection(self, influence: str, select: str, tokens: int) -> Path:
        """The smallest selection by these options, of the result of this name, that has so many tokens."""
        source = self.influence(influence)
        path = self.out / f"selected-{digest([select, tokens], [source])}.h5"
        if path.exists():
            return path

        with Result(source) as result:
            largest = len(result) - len(result["quarantine/index"])
        with tempfile.TemporaryDirectory(dir=self.out) as directory:
            program = self.program._replace(out=Path(directory))

            def tried(count: int) -> Path:
                return program.kept("select", ["select", "--result", str(source), *shlex.split(select), "--select", str(count)], ranks=1)

            def has_enough(count: int) -> bool:
                with Result(tried(count)) as result:
                    return bool(result.rows("tokens", result["selected/index"]).sum() >= tokens)

            if not has_enough(largest):
                raise ValueError(f"training.tokens: {tokens} are more than all {largest} samples have; expected fewer, or more samples")
            low, high = 0, largest
            while low + 1 < high:  # by doubling, then bisection: `low` are too few, `high` enough
                middle = min(max(2 * low, 16), (low + high) // 2)
                low, high = (low, middle) if has_enough(middle) else (middle, high)
            tried(high).rename(path)
        return path

    def listed(self, baseline: str) -> Path:
        """Ids in the order of a published selection without gradients."""
        samples = [self.drawn(), *self.targets()]
        read = samples if baseline == "bm25" else [self.options.model, *map(self.tokens, samples)]
        path = self.out / f"{baseline}-{digest('in turns', read)}.txt"
        if not path.exists():
            from idistill import baselines  # with PyTorch, which takes seconds

            if baseline == "bm25":
                ids = baselines.bm25(read[0], read[1:])
            elif baseline == "rds+":
                ids = baselines.rds_plus(read[0], read[1], read[2:])
            else:
                raise ValueError(f"training.arms: listed = '{baseline}'; expected bm25 or rds+")
            with written_whole(path) as partial:
                partial.write_text("".join(f"{own}\n" for own in ids), encoding="utf-8")
        return path

    def embedding_file(self, name: str, pool: Path) -> Path:
        made = shlex.split(self.settings["embeddings"]["made"][name])
        return self.program.kept(f"embedding-{name}", ["embed", "--model", str(self.options.model), "--pool", str(pool), *made])

    def prices(self, pool: Path, made: dict[str, str]) -> dict[str, float]:
        """FLOPs of every embedding of a pool (JSON lines), over those of the run `exact` over it, by `idistill_mpi plan`."""
        model_and_pool = ["--model", str(self.options.model), "--pool", str(self.tokens(pool))]

        def planned(options: list[str], stage: str) -> float:
            command = [self.options.mpirun, "-n", "1", self.options.program, "plan", *options, "--out", str(self.out / "planned.h5")]
            done = subprocess.run(command, capture_output=True, text=True)
            flops = re.findall(rf"^ +{stage} +\d+ +\d+ +\S+ +(\S+) ", done.stdout, re.MULTILINE)
            if done.returncode != 0 or len(flops) != 1:
                raise ValueError(f"{shlex.join(command)}: expected the FLOPs of the stage {stage}, found\n{done.stdout}{done.stderr}")
            return float(flops[0])

        exact = planned(MadeFiles(self, pool, self.targets()).run_options(self.settings["influence"]["exact"]), "exact influence")
        return {name: planned(["embed", *model_and_pool, *shlex.split(options)], "embed") / exact for name, options in made.items()}


def embeddings(study: Study) -> Iterator[str]:
    """How well every embedding predicts exact influence, and its price in gradient passes over the same samples."""
    settings, exact = study.settings["embeddings"], study.influence("exact")
    samples = embedding_quality.drawn_samples(exact, study.tokens(study.drawn()), settings["landmarks"], settings["held-out"],
                                              study.settings["seed"])  # fmt: skip
    pool = study.some_of_drawn(samples.ids)
    files = {name: study.embedding_file(name, study.tokens(pool)) for name in settings["made"]}
    price = study.prices(pool, settings["made"])
    with Result(exact) as result:
        noise = np.square(result["task/influence_error"])
        for shown, values in (("", samples.influence), (" within sources", embedding_quality.centred(samples.influence, samples.source))):
            shares = ", ".join(f"{task} {100 * own:.1f} %" for task, own in zip(result.tasks, noise / values.var(0)))
            yield f"noise of the labels, of their variance{shown}: {shares}"
    joined = {name: [files[own] for own in name.split("+")] for name in [*settings["made"], *settings.get("joined", [])]}
    for name, line in embedding_quality.table(samples, settings["landmarks"], joined, alone=True):
        parts = name.removesuffix(embedding_quality.ALONE).strip().split("+")
        cost = f"{sum(price[own] for own in parts):.2f}" if all(own in price for own in parts) else "-" if name else ""
        yield f"{line}  {'price' if name == 'embedding' else cost:>5}"


def refining(study: Study) -> Iterator[str]:
    """Gain and recall of refined selections against the exact one."""
    settings = study.settings["refining"]
    words = study.run_options(settings["options"])
    arguments = argparse.Namespace(out=study.out, budgets=settings["budgets"], refine=settings["factors"],
                                   propagated=settings["propagated"], options=words)  # fmt: skip
    yield from refinement.compare(arguments, study.program, study.influence("exact"))


def training(study: Study) -> Iterator[str]:
    """Losses of models trained on every arm."""
    from idistill import comparison  # with PyTorch, which takes seconds

    settings, options = study.settings["training"], study.options
    evaluation = dict(zip(study.settings["tasks"], study.evaluation()))
    tables = []
    for tokens in options.tokens or settings["tokens"]:
        arms = {name: _arm(study, name, tokens) for name in options.arms or settings["arms"]}
        trials = {
            "model": str(options.model), "pool": [str(study.drawn())], "eval": list(map(str, evaluation.values())),
            "exact-match": [str(evaluation[task]) for task in settings["exact-match"]], "eval-samples": settings["evaluated"],
            "max-length": study.settings["max-length"], **settings["options"], "tokens": [tokens],
            "seeds": options.seeds or settings["seeds"], "arms": arms,
        }  # fmt: skip
        tables.append(comparison.compared(trials, study.out / "outcomes", options.at_once))
    yield "\n\n".join(tables)


def _arm(study: Study, name: str, tokens: int) -> dict:
    """Options of finetune.py."""
    arm, exact = study.settings["training"]["arms"][name], str(study.influence("exact"))
    if "listed" in arm:
        return {"arm": "listed", "result": exact, "list": str(study.listed(arm["listed"]))}
    if "select" in arm:
        return {"result": str(study.selection(arm.get("influence", "exact"), arm["select"], tokens))}
    if "arm" in arm:
        return {"arm": arm["arm"], "result": exact}
    raise ValueError(f"training.arms.{name}: expected select, listed or arm, found {', '.join(arm) or 'nothing'}")


def measure(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the tables, each part's as soon as it is there. Raises ValueError and OSError."""
    study = Study(options)
    for name in options.only:
        lines = []
        yield f"== {name}"
        for line in {"embeddings": embeddings, "refining": refining, "propagation": propagation, "training": training}[name](study):
            lines.append(line)
            yield line
        if name != "training" or not (options.arms or options.seeds or options.tokens):  # the whole table
            with written_whole(study.out / f"{name}.txt") as partial:
                partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
