"""Tables of which sources a result prefers."""

from collections import Counter, defaultdict

from idistill.result import Result

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


def over_represented(result: Result, task: str, first: int, top: int) -> str:
    """The `top` sources by share among the best over share of the pool; equal ones by count, then by name."""
    pool, best = result.pool_sources(), result.best_sources(task, first)
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


def shares_by_task(result: Result) -> list[str]:
    """A table for every target that chose samples; one where they were chosen for all together."""
    count: defaultdict[str | None, Counter] = defaultdict(Counter)
    weight: defaultdict[str | None, Counter] = defaultdict(Counter)
    for selected in result.selection():
        count[selected.task][selected.source] += 1
        weight[selected.task][selected.source] += selected.weight
    pool = result.pool_sources()
    return [shares(f"target {task}" if task else "all targets", pool, count[task], weight[task]) for task in count]
