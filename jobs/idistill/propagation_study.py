"""Which propagation is better for which influence function, at equal labels: a part of jobs/study.py."""

from collections.abc import Iterator

import numpy as np

from idistill.made_files import MadeFiles
from idistill.propagation_quality import compared, figures
from idistill.result import Result
from idistill.rows import row_columns, sample_id
from idistill.samples import read_rows


def propagation(study) -> Iterator[str]:
    """R2 of single influences, of tasks within source and over all, and Spearman, on samples that were not labelled."""
    settings = study.settings["propagation"]
    rows = [sample_id(row, row_columns(row)) for row in read_rows(study.drawn())]
    drawn = np.random.default_rng(study.settings["seed"]).permutation(len(rows))[: settings["samples"]]
    held_out = study.some_of_drawn([rows[row] for row in drawn[: settings["held-out"]]])
    files = MadeFiles(study, study.some_of_drawn([rows[row] for row in drawn]), study.targets(settings["targets"]))

    width = max(map(len, [*settings["influence"], "influence"]))
    other = max(map(len, settings["by"]))
    yield f"{settings['samples']} samples of which {settings['labelled']} are labelled; compared of {settings['held-out']} those that are not"
    yield f"{'influence':{width}}  {'propagation':{other}}  {'pairs':>7} {'within':>7} {'R2':>7} {'Spearman':>8} {'seconds':>8}"
    for influence, options in settings["influence"].items():
        exact = study.program.kept(f"exact-{influence}", files.run_options(f"{options} --propagation none", held_out))
        for name, by in settings["by"].items():
            learnt = files.run_options(f"{options} {by} --landmarks {settings['labelled']}")
            with Result(exact) as truth, Result(study.program.kept(f"{influence}-by-{name}".replace(" ", "-"), learnt)) as result:
                found = compared(truth, result)
            pairs, within, r2, rank = figures(found)
            yield f"{influence:{width}}  {name:{other}}  {pairs:7.3f} {within:7.3f} {r2:7.3f} {rank:8.3f} {found.seconds:8.1f}"
