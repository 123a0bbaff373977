#!/usr/bin/env python3
"""Prints, for every target task, each source's share of the pool and of what the target selected."""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from result_file import read_selection
from token_file import TokenFile

BAR = 40  # characters for 100 %


def table(title: str, pool: Counter, selected: Counter) -> str:
    width = max(map(len, pool))
    lines = [f"{title}: {selected.total():,} samples selected", f"  {'source':{width}}     pool  selected"]
    for source, count in sorted(pool.items(), key=lambda item: (-selected[item[0]], item[0])):
        share = selected[source] / selected.total()
        bar = "█" * round(BAR * share)
        lines.append(f"  {source:{width}}  {count / pool.total():7.1%}  {share:8.1%}  {bar}".rstrip())
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="result file of idistill_mpi")
    parser.add_argument("--pool", nargs="+", type=Path, required=True, help="the token files of the pool")
    options = parser.parse_args()

    source_of: dict[str, str] = {}
    for path in options.pool:
        with TokenFile(path) as pool:
            source_of.update(zip(pool.ids, pool.sources))
    by_task: defaultdict[str | None, Counter] = defaultdict(Counter)
    for selected in read_selection(options.result):
        by_task[selected.task][source_of[selected.id]] += 1
    for task, counts in by_task.items():
        print(f"\n{table(f'target {task}' if task else 'all targets', Counter(source_of.values()), counts)}")


if __name__ == "__main__":
    main()
