"""Plots of distributions: latency tails by policy, and the downtimes of migrations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from llumnix.report import svg
from llumnix.report.data import NamedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TAIL: Final = 0.01
_POINTS: Final = 600
_BINS: Final = 40
_LABEL_POINTS: Final = 5.5
"""Approximate width of a label's character."""


def tail(
    runs: Sequence[tuple[NamedRun, Sequence[float]]], scale: float, unit: str, name: str, what: str
) -> str:
    """Plot each run's share of requests that took longer than x, as inline SVG.

    Both axes are logarithmic, so that the slowest requests, which an ordinary distribution squeezes
    into its last pixel, get half of the plot. The 1 % line marks the P99.
    """
    with svg.plot(6.0, 3.5) as (figure, axes):
        marks = []
        for named, values in runs:
            ordered = np.sort(np.asarray(values, dtype=np.float64)) * scale
            slower = 1 - np.arange(len(ordered)) / len(ordered)
            keep = _spread_out(len(ordered))
            colour = svg.run_colour(named.colour)
            axes.step(ordered[keep], slower[keep], where="pre", color=colour, linewidth=1.6)
            marks.append((float(np.quantile(ordered, 1 - _TAIL)), colour))
        _tail_axes(axes, max(len(values) for _, values in runs))
        figure.draw_without_rendering()
        _mark(axes, marks, unit, 72 / figure.dpi)
        return svg.inline(figure, name, what)


def _spread_out(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Pick indexes evenly over the logarithm of the remaining share, keeping all of the tail."""
    left = np.unique(np.geomspace(1, count, _POINTS).round().astype(np.int64))
    return count - left[::-1]


def _tail_axes(axes: "Axes", most: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(min(0.5 / most, _TAIL / 2), 1.15)
    axes.axhline(_TAIL, color=svg.MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    # Powers of ten alone would leave a narrow range with a single tick.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, axis="both", which="major")
    axes.set_axisbelow(True)
    axes.set_ylabel("share of requests slower than this")
    axes.tick_params(which="minor", length=0)


def _mark(
    axes: "Axes", marks: Sequence[tuple[float, str]], unit: str, points_per_pixel: float
) -> None:
    """Mark and label each P99 on its curve; labels that would collide are raised."""
    taken: list[tuple[float, int]] = []
    for p99, colour in sorted(marks, reverse=True):
        axes.plot([p99], [_TAIL], "o", color=colour, markersize=5.5, markeredgecolor=svg.PAPER)
        label = f"{p99:,.3g} {unit}" if p99 < 100 else f"{p99:,.0f} {unit}"
        left = axes.transData.transform((p99, _TAIL))[0] * points_per_pixel
        right = left + _LABEL_POINTS * (len(label) + 1)
        level = 1 + max((at for start, at in taken if start < right), default=-1)
        taken.append((left, level))
        axes.annotate(
            label,
            (p99, _TAIL),
            xytext=(5, 5 + 11 * level),
            textcoords="offset points",
            fontsize=8.5,
            fontweight="bold",
            color=colour,
        )


def downtimes(named: NamedRun, name: str) -> str:
    """Draw a histogram of the downtimes of a run's migrations as inline SVG."""
    run = named.run
    values = np.asarray(run.downtime_ms, dtype=np.float64)
    p50, p99 = np.quantile(values, [0.5, 0.99])
    step_ms = run.figure("decode_step_ms", "p50")
    high = max(float(p99) * 1.25, float(step_ms or 0) * 1.1, 1.0)
    beyond = int((values > high).sum())
    with svg.plot(6.0, 2.8) as (figure, axes):
        low = min(0.0, float(values.min()))
        axes.hist(
            values[values <= high],
            bins=_BINS,
            range=(low, high),
            color=svg.run_colour(named.colour),
            alpha=0.85,
            rwidth=0.86,
        )
        _vertical(axes, float(p50), f"p50 {p50:.1f} ms", 0.98)
        _vertical(axes, float(p99), f"p99 {p99:.1f} ms", 0.86)
        if step_ms is not None:
            _vertical(axes, step_ms, f"one decode step {step_ms:.0f} ms", 0.74, dashed=True)
        axes.set_xlim(low, high)
        more = f"; {beyond} more beyond {high:.0f} ms" if beyond else ""
        axes.set_xlabel(f"downtime, ms{more}")
        axes.set_ylabel("migrations")
        axes.grid(visible=True, axis="y")
        axes.set_axisbelow(True)
        return svg.inline(figure, name, f"Histogram of {len(values)} downtimes under {named.name}")


def _vertical(axes: "Axes", at: float, label: str, height: float, *, dashed: bool = False) -> None:
    style = (0, (3, 3)) if dashed else "solid"
    axes.axvline(at, color=svg.MUTED if dashed else svg.INK, linewidth=0.9, linestyle=style)
    axes.annotate(
        label,
        (at, height),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        va="top",
        fontsize=8.5,
        color=svg.INK,
    )
