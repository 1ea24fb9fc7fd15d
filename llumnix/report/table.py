"""The table of runs, one row per policy, with the best figure of each column highlighted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from llumnix.report.data import NamedRun, RunReport

UNKNOWN: Final = "–"  # noqa: RUF001 - a dash is what an empty cell of a table holds


@dataclass(frozen=True, slots=True)
class Column:
    """One column: how to read and format its figure, and whether less is better."""

    group: str
    title: str
    read: Callable[[RunReport], float | None]
    shown: Callable[[float], str] = "{:,.0f}".format
    less_is_better: bool = False


def _figure(name: str, part: str = "", scale: float = 1.0) -> Callable[[RunReport], float | None]:
    def read(run: RunReport) -> float | None:
        value = run.figure(name, part)
        return None if value is None else value * scale

    return read


def _faults(run: RunReport) -> float | None:
    """Return the number of faults in the outputs; None if they were not compared."""
    parts = [run.figure(f"tokens_{fault}") for fault in ("lost", "doubled", "wrong")]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _latency(group: str, name: str, scale: float, digits: int) -> list[Column]:
    shown = f"{{:,.{digits}f}}".format
    return [
        Column(group, part, _figure(name, part, scale), shown, less_is_better=True)
        for part in ("mean", "p50", "p99")
    ]


COLUMNS: Final = (
    Column("Requests", "finished", _figure("finished")),
    Column("Requests", "failed", _figure("failed")),
    Column("Requests", "rejected", _figure("rejected")),
    Column("Requests", "faulty", _faults),
    *_latency("First token, s", "ttft_s", 1.0, 2),
    *_latency("Per output token, ms", "tpot_s", 1e3, 1),
    Column("Preemptions", "", _figure("preemptions"), less_is_better=True),
    Column("Instances", "seconds", _figure("instance_seconds"), less_is_better=True),
    Column("Migrations", "done", _figure("migrations_committed")),
    Column("Migrations", "aborted", _figure("migrations_aborted")),
    Column("Downtime, ms", "p50", _figure("downtime_ms", "p50"), "{:,.1f}".format),
    Column("Downtime, ms", "p99", _figure("downtime_ms", "p99"), "{:,.1f}".format),
)


def runs_table(runs: Sequence[NamedRun]) -> str:
    """Return the table as HTML, without columns that are unknown for all runs."""
    columns = [one for one in COLUMNS if any(one.read(run.run) is not None for run in runs)]
    best = {id(column): _best(column, runs) for column in columns}
    body = "".join(_row(named, columns, best) for named in runs)
    return f"<table>{_head(columns)}<tbody>{body}</tbody></table>"


def _head(columns: Sequence[Column]) -> str:
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    over = "".join(
        f'<th scope="colgroup" colspan="{count}" class="group">{escape(title)}</th>'
        for title, count in groups
    )
    starts = _group_starts(columns)
    under = "".join(
        f'<th scope="col"{" class=first" if column in starts else ""}>{escape(column.title)}</th>'
        for column in columns
    )
    return f'<thead><tr><th></th>{over}</tr><tr><th scope="col">policy</th>{under}</tr></thead>'


def _group_starts(columns: Sequence[Column]) -> list[Column]:
    groups: set[str] = set()
    starts = []
    for column in columns:
        if column.group not in groups:
            groups.add(column.group)
            starts.append(column)
    return starts


def _best(column: Column, runs: Sequence[NamedRun]) -> str | None:
    """Return the best figure as shown, if valid runs differ in it."""
    values = [column.read(named.run) for named in runs if named.run.valid]
    known = [value for value in values if value is not None]
    if not column.less_is_better or len({column.shown(value) for value in known}) < 2:
        return None
    return column.shown(min(known))


def _row(named: NamedRun, columns: Sequence[Column], best: dict[int, str | None]) -> str:
    starts = _group_starts(columns)
    cells = []
    for column in columns:
        value = column.read(named.run)
        text = UNKNOWN if value is None else column.shown(value)
        classes = ["first"] if column in starts else []
        if named.run.valid and value is not None and text == best[id(column)]:
            classes.append("best")
        cells.append(f'<td class="{" ".join(classes)}">{text}</td>')
    swatch = f'<i class="swatch run-{named.colour % 6}"></i>'
    name = f'<th scope="row">{swatch}{escape(named.name)}</th>'
    return f"<tr{'' if named.run.valid else ' class=invalid'}>{name}{''.join(cells)}</tr>"
