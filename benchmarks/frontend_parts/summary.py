"""What the rounds come to: a line of figures for each target, with the spread over rounds."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from frontend_parts.rounds import FIRST, PACED, PLAIN, STREAMED, TOKENS, Measured, Results


@dataclass(frozen=True, slots=True)
class Figure:
    """The median over rounds, and the lowest and highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def figure(values: Sequence[float]) -> Figure | None:
    """Summarise the values of all rounds; None if there are none."""
    if not values:
        return None
    return Figure(statistics.median(values), min(values), max(values))


Row = dict[str, Figure | None]

HEADINGS = {
    "request_cpu_us": "CPU µs per request, not streamed",
    "streamed_cpu_us": "CPU µs per stream of 16 tokens",
    "paced_cpu_us": "the same, paced",
    "token_cpu_us": "CPU µs per token",
    "added_p50_ms": "TTFT added, p50, ms",
    "added_p99_ms": "TTFT added, p99, ms",
    "full_p50_ms": "TTFT added flat out, p50, ms",
    "full_p99_ms": "TTFT added flat out, p99, ms",
    "forward_p50_ms": "token forward, p50, ms",
    "forward_p99_ms": "token forward, p99, ms",
    "requests_per_s": "requests/s, not streamed",
    "idle_share": "CPU when idle, % of a core",
}


def summarise(results: Results) -> dict[str, Row]:
    """Return the figures of each target. What is added is over `direct` in the same round."""
    direct = results.measured["direct"]
    rows: dict[str, Row] = {}
    for name, measured in results.measured.items():
        row: Row = {
            "forward_p50_ms": _over(measured[TOKENS], lambda each: each.load.steady_ms["p50"]),
            "forward_p99_ms": _over(measured[TOKENS], lambda each: each.load.steady_ms["p99"]),
            "requests_per_s": _over(
                measured[PLAIN], lambda each: each.load.requests / each.load.wall_s
            ),
        }
        if name != "direct":
            row |= {
                "request_cpu_us": _over(measured[PLAIN], _cpu_us),
                "streamed_cpu_us": _over(measured[STREAMED], _cpu_us),
                "paced_cpu_us": _over(measured[PACED], _cpu_us),
                "token_cpu_us": _per_token(measured[TOKENS], measured[FIRST]),
                "added_p50_ms": _added(measured[PACED], direct[PACED], "p50"),
                "added_p99_ms": _added(measured[PACED], direct[PACED], "p99"),
                "full_p50_ms": _added(measured[STREAMED], direct[STREAMED], "p50"),
                "full_p99_ms": _added(measured[STREAMED], direct[STREAMED], "p99"),
                "idle_share": figure([100 * each for each in results.idle_cores[name]]),
            }
        rows[name] = row
    return rows


def _over(measured: Sequence[Measured], of: Callable[[Measured], float]) -> Figure | None:
    return figure([of(each) for each in measured])


def _cpu_us(each: Measured) -> float:
    return 1e6 * each.total_cpu_s / each.load.requests


def _per_token(long: Sequence[Measured], short: Sequence[Measured]) -> Figure | None:
    """Subtract the streams' first tokens, and with them all that is per request."""
    return figure(
        [
            1e6 * (a.total_cpu_s - b.total_cpu_s) / (a.load.tokens - b.load.tokens)
            for a, b in zip(long, short, strict=False)
        ]
    )


def _added(measured: Sequence[Measured], direct: Sequence[Measured], share: str) -> Figure | None:
    return figure(
        [
            each.load.first_ms[share] - other.load.first_ms[share]
            for each, other in zip(measured, direct, strict=False)
        ]
    )


def ratio(rows: dict[str, Row], name: str, other: str, key: str) -> float | None:
    """Divide one target's median by another's; None without both."""
    above, below = rows.get(name, {}).get(key), rows.get(other, {}).get(key)
    return above.median / below.median if above and below and below.median > 0 else None


def table(rows: dict[str, Row]) -> str:
    """Lay the figures out as a Markdown table: a line a figure, a column a target."""
    lines = ["| median (range) | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for key, heading in HEADINGS.items():
        cells = [str(row.get(key) or "-") for row in rows.values()]
        lines.append(f"| {heading} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
