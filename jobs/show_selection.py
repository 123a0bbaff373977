#!/usr/bin/env python3
"""Prints which sources a result of idistill_mpi prefers.

Without --task: for every target, each source's share of the pool and of what the target selected; of weighted samples, which
are selected for all targets together, its share of their weight as well.
With --task NAME: the sources that are most over-represented among the samples of highest score for this target alone,
whatever rule the selection followed: share among them over share of the pool.
"""

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

from arguments import positive
from result_file import best_sources, pool_sources, read_selection

BAR = 40  # characters for 100 %


def shares(title: str, pool: Counter, selected: Counter, weight: Counter) -> str:
    """Every source's share of the pool, of the selection and, where samples differ in it, of the weight; with a bar."""
    width = max(map(len, pool))
    columns = {"pool": pool, "selected": selected} | ({"weight": weight} if weight != selected else {})
    heading = f"  {'source':{width}}  {'pool':>7}" + "".join(f"  {name:>8}" for name in list(columns)[1:])
    lines = [f"{title}: {selected.total():,} samples selected", heading]
    for source in sorted(pool, key=lambda name: (-weight[name], name)):
        share = {name: column[source] / column.total() for name, column in columns.items()}
        cells = f"{share['pool']:7.1%}" + "".join(f"  {share[name]:8.1%}" for name in list(columns)[1:])
        lines.append(f"  {source:{width}}  {cells}  {'█' * round(BAR * list(share.values())[-1])}".rstrip())
    return "\n".join(lines)


def over_represented(task: str, pool: Counter, best: Counter, top: int) -> str:
    """The `top` sources by share among the best over share of the pool; equal ones by count, then by name."""
    times = {source: count / best.total() * pool.total() / pool[source] for source, count in best.items() if count}
    ranked = sorted(times, key=lambda source: (-times[source], -best[source], source))[:top]
    width = max(map(len, ["source", *ranked]))
    lines = [
        f"target {task} alone: sources of its {best.total():,} samples of highest score",
        f"  {'source':{width}}  {'times its share':>15}  {'of these':>16}  {'of the pool':>16}",
    ]
    for source in ranked:
        of_best, of_pool = (f"{c[source]:,} {c[source] / c.total():7.2%}" for c in (best, pool))
        lines.append(f"  {source:{width}}  {times[source]:15.1f}  {of_best:>16}  {of_pool:>16}")
    return "\n".join(lines)


def print_shares(result: Path):
    count: defaultdict[str | None, Counter] = defaultdict(Counter)
    weight: defaultdict[str | None, Counter] = defaultdict(Counter)
    for selected in read_selection(result):
        count[selected.task][selected.source] += 1
        weight[selected.task][selected.source] += selected.weight
    pool = pool_sources(result)
    for task in count:
        print(f"\n{shares(f'target {task}' if task else 'all targets', pool, count[task], weight[task])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result file of idistill_mpi")
    parser.add_argument("--task", nargs="+", metavar="NAME", help="targets, each looked at alone")
    parser.add_argument("--first", type=positive, default=500, help="samples of highest score (%(default)s)")
    parser.add_argument("--top", type=positive, default=10, help="sources to print (%(default)s)")
    options = parser.parse_args()
    try:
        if not options.task:
            return print_shares(options.result)
        for task in options.task:
            best = best_sources(options.result, task, options.first)
            print(f"\n{over_represented(task, pool_sources(options.result), best, options.top)}")
    except (ValueError, OSError) as error:
        sys.exit(f"show_selection.py: {error}")



if __name__ == "__main__":
    main()
