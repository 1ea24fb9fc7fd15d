"""Results of runs as a table on the terminal, one column a run."""

from collections.abc import Sequence

from rich.table import Table

from llumnix.results import RunResult, Spread

UNKNOWN = "-"


def results_table(results: Sequence[RunResult], title: str = "") -> Table:
    """Lay runs side by side; rows nobody could know anything about are left out."""
    table = Table(title=title or None, show_edge=False, pad_edge=False)
    table.add_column("")
    for result in results:
        moving = " + migration" if result.migration else ""
        table.add_column(f"{result.policy or 'replay'}{moving}", justify="right")
    columns = [_cells(result) for result in results]
    for name in columns[0] if columns else ():
        values = [cells[name] for cells in columns]
        if any(value != UNKNOWN for value in values):
            table.add_row(name, *values)
    return table


def _cells(result: RunResult) -> dict[str, str]:
    lost = (result.tokens_lost, result.tokens_doubled, result.tokens_wrong)
    rejected = f"{result.rejected}" + (f" ({result.shed} for load)" if result.shed else "")
    good = result.goodput
    return {
        "valid": "yes" if result.valid else "NO",
        "requests": f"{result.requests}",
        "finished": f"{result.finished}",
        "failed": f"{result.failed}",
        "rejected": rejected,
        "tokens lost / doubled / wrong": UNKNOWN if None in lost else " / ".join(map(str, lost)),
        "TTFT mean / p50 / p99": _spread(result.ttft_s, "s", 1.0),
        "TPOT mean / p50 / p99": _spread(result.tpot_s, "ms", 1e3),
        "E2E mean / p50 / p99": _spread(result.e2e_s, "s", 1.0),
        "goodput": f"{good.share:.1%}, {good.rps:.2f} req/s" if good else UNKNOWN,
        "migrations committed": _number(result.migrations_committed),
        "migrations aborted": _number(result.migrations_aborted),
        "downtime p50 / p99": _pair(result.downtime_ms.p50, result.downtime_ms.p99, "ms"),
        "gap at a move p50 / p99": _pair(result.gap_ms.p50, result.gap_ms.p99, "ms"),
        "decode step p50": _number(result.decode_step_ms.p50, " ms"),
        "preemptions": _number(result.preemptions),
        "duration": f"{result.duration_s:.1f} s",
    }


def _spread(spread: Spread, unit: str, scale: float) -> str:
    if spread.mean is None or spread.p50 is None or spread.p99 is None:
        return UNKNOWN
    digits = 2 if unit == "s" else 1
    values = (spread.mean, spread.p50, spread.p99)
    return " / ".join(f"{value * scale:.{digits}f}" for value in values) + f" {unit}"


def _pair(p50: float | None, p99: float | None, unit: str) -> str:
    return UNKNOWN if p50 is None or p99 is None else f"{p50:.1f} / {p99:.1f} {unit}"


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return UNKNOWN
    return f"{value}{unit}" if isinstance(value, int) else f"{value:.1f}{unit}"
