"""Draw one frame of `llumnix top`: pure, from the fleet and its latest events to text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from llumnix.admin.schema import EventRecord, FleetStatus, InstanceStatus, MigrationStatus

_STATE_STYLES: Final = {"up": "green", "draining": "yellow", "starting": "cyan", "down": "bold red"}
_EVENT_MARKS: Final = {
    "migration_started": ("→", "cyan"),
    "migration_committed": ("✓", "green"),
    "migration_aborted": ("✗", "yellow"),
    "migration_refused": ("✗", "yellow"),
    "instance_up": ("▲", "green"),
    "instance_down": ("▼", "bold red"),
    "instance_not_up": ("▼", "red"),
    "drain": ("▽", "yellow"),
}
_OTHER_MARK: Final = ("•", "default")
# Bars can be read without colour: used memory is drawn high, reserved lower, free flat.
_USED, _RESERVED, _FREE = "▆", "▄", "▁"
_TITLE_STYLE: Final = "bold"
_FAINT: Final = "bright_black"
_TALL: Final = 30
_FEWEST_EVENTS: Final = 3


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates per fleet second (migrations: per fleet minute)."""

    arrived_per_s: float
    finished_per_s: float
    migrated_per_min: float


def render(
    fleet: FleetStatus | None,
    events: Sequence[EventRecord],
    width: int,
    height: int = 24,
    rates: Rates | None = None,
    problem: str = "",
) -> RenderableType:
    """Draw the frame that fits `width` x `height` cells.

    `fleet` is None before the first response, `events` are the latest, oldest first. `problem` says
    why the view is stale or empty.
    """
    if fleet is None:
        return Group(*_problem(problem or "waiting for the fleet"))
    moving_lines = 5 if height >= _TALL else 3
    parts: list[RenderableType] = [*_header(fleet, rates, width)]
    parts += [_cut(line, width) for line in _problem(problem)] if problem else []
    left = height - len(parts) - 3  # the three section titles
    rows = max(1, min(len(fleet.instances), left - moving_lines - _FEWEST_EVENTS - 2))
    parts += [_title("instances", _legend()), _instances(fleet.instances, rows, width)]
    left -= rows + 1 + (len(fleet.instances) > rows)
    parts += [_title(f"migrating: {len(fleet.migrations)}")]
    parts += _moving(fleet, moving_lines, width)
    parts += [_title("events")]
    parts += _events(events, max(0, left - moving_lines), width)
    return Group(*parts)


def _problem(problem: str) -> list[Text]:
    return [Text(f" {problem}", style="bold red"), Text()]


def _title(title: str, more: Text | None = None) -> RenderableType:
    text = Text(title, style=_TITLE_STYLE)
    if more is not None:
        text.append_text(more)
    return Rule(text, align="left", style=_FAINT)


def _legend() -> Text:
    return Text.assemble(
        ("  KV memory ", _FAINT),
        (_USED, "green"),
        (" used ", _FAINT),
        (_RESERVED, "magenta"),
        (" reserved for arrivals ", _FAINT),
        (_FREE, _FAINT),
        (" free", _FAINT),
    )


def _header(fleet: FleetStatus, rates: Rates | None, width: int) -> list[RenderableType]:
    totals = fleet.totals
    how = f"{fleet.policy}{' + migration' if fleet.migration else ', no migration'}"
    first = Text.assemble((" llumnix", "bold cyan"), f"  {how}  ")
    first.append(f"up {_clock(fleet.now_s)}", _FAINT)
    if fleet.speed != 1:
        first.append(f", emulated at {fleet.speed:g}x real time", _FAINT)
    running = sum(each.running for each in fleet.instances)
    waiting = sum(each.waiting for each in fleet.instances)
    limit = f" of {fleet.queue.limit}" if fleet.queue.limit else ""
    now = _figures(
        ("streams", totals.streams_open, ""),
        ("running", running, ""),
        ("waiting", waiting, ""),
        ("queued", f"{fleet.queue.length}{limit}", ""),
    )
    if rates is not None:
        now.append(f"  {rates.arrived_per_s:.1f} req/s in, {rates.finished_per_s:.1f} out")
    failed = totals.failed
    so_far = _figures(
        ("requests", totals.requests, ""),
        ("finished", totals.finished, ""),
        ("failed", failed, "bold red" if failed else "green"),
        ("rejected", totals.rejected, ""),
        ("resumed", totals.resumed, ""),
    )
    lines = first, now, so_far, _migration_line(fleet, rates)
    return [_cut(line, width) for line in lines]


def _migration_line(fleet: FleetStatus, rates: Rates | None) -> Text:
    line = _figures(
        ("migrations", fleet.totals.migrations_committed, "green"),
        ("aborted", fleet.totals.migrations_aborted, ""),
    )
    if rates is not None:
        line.append(f" {rates.migrated_per_min:.0f}/min")
    if fleet.totals.downtime_ms:
        ordered = sorted(fleet.totals.downtime_ms)
        p50, p99 = (_quantile(ordered, share) for share in (0.5, 0.99))
        line.append(f"  downtime p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    return line


def _figures(*figures: tuple[str, object, str]) -> Text:
    text = Text()
    for name, value, style in figures:
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        text.append(f" {name} ", _FAINT)
        text.append(shown, style or "bold")
        text.append(" ")
    return text


def _instances(instances: Sequence[InstanceStatus], rows: int, width: int) -> RenderableType:
    shown = instances
    if len(instances) > rows:
        # The least free ones are those that matter.
        least_free = sorted(instances, key=lambda each: _freeness(each))[:rows]
        shown = [each for each in instances if each in least_free]
    name_width = min(24, max([8, *(len(each.instance_id) for each in shown)]))
    fixed = name_width + len("draining") + len("running") + len("waiting") + len("freeness") + 5
    bar_width = max(8, width - fixed - 12)
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), pad_edge=False, header_style=_FAINT)
    table.add_column(" instance", max_width=name_width + 1, no_wrap=True)
    table.add_column("state", width=8)
    table.add_column("running", justify="right", width=7)
    table.add_column("waiting", justify="right", width=7)
    table.add_column("", no_wrap=True, width=bar_width + 5)
    table.add_column("freeness", justify="right", width=8)
    for each in shown:
        table.add_row(*_instance_cells(each, bar_width))
    more = len(instances) - len(shown)
    if not more:
        return table
    return Group(table, Text(f" and {more} more, freer than these", style=_FAINT))


def _instance_cells(each: InstanceStatus, bar_width: int) -> tuple[Text, ...]:
    style = _FAINT if each.down else ""
    freeness = Text("-", _FAINT)
    if each.freeness is not None and not each.down:
        freeness = Text(f"{each.freeness:,.0f}", "bold red" if each.freeness < 0 else "bold")
    return (
        Text(f" {each.instance_id}", style),
        Text(each.state, _STATE_STYLES.get(each.state, "")),
        Text(f"{each.running}", style),
        Text(f"{each.waiting}", "yellow" if each.waiting else style),
        _bar(each, bar_width),
        freeness,
    )


def _bar(each: InstanceStatus, bar_width: int) -> Text:
    if each.reason:
        return _cut(Text(each.reason.replace("_", " "), "red"), bar_width)
    if not each.capacity_tokens or each.down:
        return Text(_FREE * bar_width, _FAINT)
    used = min(bar_width, round(bar_width * each.used_share))
    reserved_share = each.reserved_tokens / each.capacity_tokens
    # Any reservation shows, however small.
    reserved = round(bar_width * reserved_share) or (each.reserved_tokens > 0)
    reserved = min(bar_width - used, reserved)
    style = "red" if each.used_share >= 0.9 else "yellow" if each.used_share >= 0.7 else "green"
    return Text.assemble(
        (_USED * used, style),
        (_RESERVED * reserved, "magenta"),
        (_FREE * (bar_width - used - reserved), _FAINT),
        (f"{each.used_share:5.0%}", "default"),
    )


def _moving(fleet: FleetStatus, lines: int, width: int) -> list[RenderableType]:
    """Draw exactly `lines` lines, so that the frame does not jump."""
    oldest_first = sorted(fleet.migrations, key=lambda each: each.started_s)
    more = len(oldest_first) - lines
    shown = oldest_first[: lines - 1] if more > 0 else oldest_first
    drawn = [_migration(each, fleet.now_s, width) for each in shown]
    if more > 0:
        drawn.append(Text(f" and {more + 1} more", style=_FAINT))
    if not drawn:
        drawn.append(Text(" nothing", style=_FAINT))
    return [*drawn, *(Text() for _ in range(lines - len(drawn)))]


def _migration(each: MigrationStatus, now_s: float, width: int) -> Text:
    line = Text.assemble(
        f" {each.source} ",
        ("━━▶", "cyan"),
        f" {each.destination}  ",
        (f"{max(0.0, now_s - each.started_s):4.1f} s  ", "bold"),
        (f"{each.reason}  ", _FAINT),
        each.request_id or "choosing a request",
    )
    return _cut(line, width)


def _events(events: Sequence[EventRecord], lines: int, width: int) -> list[RenderableType]:
    drawn: list[RenderableType] = []
    for event in events[-lines:] if lines else []:
        mark, style = _EVENT_MARKS.get(event.kind, _OTHER_MARK)
        line = Text.assemble(
            (f" {_clock(event.at_s):>8} ", _FAINT),
            (f"{mark} ", style),
            " ".join(event.text.split()),
        )
        drawn.append(_cut(line, width))
    return drawn


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


def _freeness(each: InstanceStatus) -> float:
    return float("-inf") if each.freeness is None else each.freeness


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
