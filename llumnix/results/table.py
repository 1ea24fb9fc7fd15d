"""Results of runs as a table on the terminal, one column per run."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from llumnix.results.result import RunResult, Spread

UNKNOWN = "-"


def results_table(
    results: Sequence[RunResult], title: str = "", more: Sequence[Mapping[str, str]] = ()
) -> Table:
    """Return runs side by side, without rows that no run knows anything about.

    `more` are further cells of each run, which go below the first row.
    """
    table = Table(title=title or None, show_edge=False, pad_edge=False)
    table.add_column("")
    for result in results:
        moving = " + migration" if result.migration else ""
        name = f"{result.policy or 'replay'}{moving}"
        table.add_column(name, justify="right", no_wrap=True)
    columns = [_cells(result) for result in results]
    for number, further in enumerate(more):
        cells = columns[number]
        columns[number] = {"valid": cells.pop("valid"), **further, **cells}
    for name in columns[0] if columns else ():
        values = [cells.get(name, UNKNOWN) for cells in columns]
        if any(value != UNKNOWN for value in values):
            table.add_row(name, *values)
    return table


def _cells(result: RunResult) -> dict[str, str]:
    faults = (result.tokens_lost, result.tokens_doubled, result.tokens_wrong)
    rejected = f"{result.rejected}" + (f" ({result.shed} for load)" if result.shed else "")
    good = result.goodput
    return {
        "valid": "yes" if result.valid else "NO",
        "requests": f"{result.requests}",
        "finished": f"{result.finished}",
        "failed": f"{result.failed}",
        "rejected": rejected,
        "tokens lost/doubled/wrong": UNKNOWN if None in faults else "/".join(map(str, faults)),
        **_spread("TTFT", result.ttft_s, "s", 1.0, 2),
        **_spread("TPOT", result.tpot_s, "ms", 1e3, 1),
        **_spread("E2E", result.e2e_s, "s", 1.0, 2),
        "goodput, share": f"{good.share:.1%}" if good else UNKNOWN,
        "goodput, req/s": f"{good.rps:.2f}" if good else UNKNOWN,
        "migrations committed": _number(result.migrations_committed),
        "migrations aborted": _number(result.migrations_aborted),
        "downtime p50, ms": _number(result.downtime_ms.p50),
        "downtime p99, ms": _number(result.downtime_ms.p99),
        "gap at a move p50, ms": _number(result.gap_ms.p50),
        "decode step p50, ms": _number(result.decode_step_ms.p50),
        "preemptions": _number(result.preemptions),
        "prompt tokens cached": _number(result.cached_prompt_tokens),
        "instance-seconds": _number(result.instance_seconds),
        "duration, s": f"{result.duration_s:.1f}",
    }


def _spread(name: str, spread: Spread, unit: str, scale: float, digits: int) -> dict[str, str]:
    values = {"mean": spread.mean, "p50": spread.p50, "p99": spread.p99}
    return {
        f"{name} {part}, {unit}": UNKNOWN if value is None else f"{value * scale:.{digits}f}"
        for part, value in values.items()
    }


def _number(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value}" if isinstance(value, int) else f"{value:.1f}"
