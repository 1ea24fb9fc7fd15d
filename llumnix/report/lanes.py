"""The plot of a run: one lane per instance, its freeness over time, and every migration.

Lanes, because the curves of several instances drawn over each other are a tangle even without
migrations. A lane shows the instance's freeness as an area on its zero line: room above it,
shortage below. A migration is a thin arrow from the source's curve when it started to the
destination's curve when it ended. All runs share both scales, so that they can be compared by eye.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from llumnix.report import svg
from llumnix.report.data import NamedRun, RunReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Column = npt.NDArray[np.float64]

_POINTS: Final = 700
_LANE: Final = 0.84  # of the distance between two lanes; the rest is space
_WIDTH_IN: Final = 10.0
_TALL_LANES: Final = 8
_MINUTES_FROM_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class LaneScale:
    """The scale of a lane: freeness in decode steps (height) and fleet seconds (width).

    Freeness near zero is what matters, and that of an idle instance is hundreds of times larger. So
    heights are linear up to about `linear_steps` either way and logarithmic beyond (asinh).
    """

    linear_steps: float
    top_steps: float
    bottom_steps: float
    span_s: float

    @classmethod
    def of(cls, runs: Iterable[RunReport]) -> "LaneScale | None":
        """Fit one scale to all runs; None if nothing was measured."""
        runs = list(runs)
        rows = [row for run in runs for series in run.freeness.values() for row in series]
        if not rows:
            return None
        values = np.array([value for _, value in rows])
        linear = _nice(float(np.quantile(np.abs(values), 0.25)))
        top = max(linear, _nice(float(np.quantile(values, 0.95))))
        bottom = -max(linear, _nice(-float(np.quantile(values, 0.01))))
        ends = [at for at, _ in rows] + [move[1] for run in runs for move in run.migrations]
        return cls(linear, top, bottom, max(*ends, 1.0))

    def heights(self, values: Column) -> Column:
        """Map freeness to heights within a lane, clipped to 0…1."""
        low, high = np.arcsinh(np.array([self.bottom_steps, self.top_steps]) / self.linear_steps)
        bent = np.arcsinh(np.clip(values, self.bottom_steps, self.top_steps) / self.linear_steps)
        scaled: Column = (bent - low) / (high - low)
        return scaled

    def height(self, steps: float) -> float:
        """Map one freeness to a height within a lane."""
        return float(self.heights(np.array([steps]))[0])


@dataclass(frozen=True, slots=True)
class _Lane:
    """One instance's curve, in the plot's coordinates."""

    times_s: Column
    heights: Column
    zero: float

    def height_at(self, at_s: float) -> float:
        return (
            float(np.interp(at_s, self.times_s, self.heights)) if len(self.times_s) else self.zero
        )


def freeness_lanes(named: NamedRun, scale: LaneScale, name: str) -> str:
    """Plot one run's lanes as inline SVG."""
    run = named.run
    ids = list(run.freeness)
    lane_in = 0.62 if len(ids) <= _TALL_LANES else max(0.28, 5.0 / len(ids))
    with svg.plot(_WIDTH_IN, 0.45 + lane_in * len(ids)) as (figure, axes):
        lanes = {
            instance_id: _lane(run.freeness[instance_id], len(ids) - 1 - row, scale)
            for row, instance_id in enumerate(ids)
        }
        for lane in lanes.values():
            _draw_lane(axes, lane)
        _draw_moves(axes, run, lanes)
        _draw_axes(axes, lanes, scale)
        description = (
            f"Freeness of {len(ids)} instances over time under {named.name}, "
            f"with {len(run.migrations)} migrations between them"
        )
        return svg.inline(figure, name, description)


def _lane(series: Sequence[tuple[float, float]], row: int, scale: LaneScale) -> _Lane:
    points = _thinned(np.array(series, dtype=np.float64).reshape(-1, 2))
    zero = row + _LANE * scale.height(0)
    return _Lane(points[:, 0], row + _LANE * scale.heights(points[:, 1]), zero)


def _thinned(points: Column) -> Column:
    """Keep at most `_POINTS` points, the lowest of each stretch, so that shortage stays visible."""
    if len(points) <= _POINTS:
        return points
    parts = np.array_split(points, _POINTS)
    return np.array([part[part[:, 1].argmin()] for part in parts])


def _draw_lane(axes: "Axes", lane: _Lane) -> None:
    axes.axhline(lane.zero, color=svg.GRID, linewidth=0.7, zorder=1)
    if not len(lane.times_s):
        return
    for above, colour, alpha in ((True, svg.ROOM, 0.30), (False, svg.SHORTAGE, 0.75)):
        edge = np.maximum(lane.heights, lane.zero) if above else np.minimum(lane.heights, lane.zero)
        axes.fill_between(
            lane.times_s, lane.zero, edge, color=colour, alpha=alpha, linewidth=0, zorder=2
        )
    axes.plot(lane.times_s, lane.heights, color=svg.ROOM, linewidth=0.9, zorder=3)


def _draw_moves(axes: "Axes", run: RunReport, lanes: dict[str, _Lane]) -> None:
    from matplotlib.collections import LineCollection

    moves = [move for move in run.migrations if move[2] in lanes and move[3] in lanes]
    if not moves:
        return
    starts = np.array([(move[0], lanes[move[2]].height_at(move[0])) for move in moves])
    ends = np.array([(move[1], lanes[move[3]].height_at(move[1])) for move in moves])
    # The more arrows, the fainter each: a thousand must not black out the plot.
    alpha = float(np.clip(7 / np.sqrt(len(moves)), 0.25, 0.8))
    shafts = np.stack([starts, ends], axis=1)
    axes.add_collection(
        LineCollection(list(shafts), colors=svg.ARROW, linewidths=0.6, alpha=alpha, zorder=4)
    )
    axes.scatter(
        starts[:, 0], starts[:, 1], s=3, color=svg.ARROW, linewidths=0, alpha=alpha, zorder=5
    )
    down = ends[:, 1] < starts[:, 1]
    for marker, which in (("v", down), ("^", ~down)):
        axes.scatter(
            ends[which, 0],
            ends[which, 1],
            s=13,
            marker=marker,
            color=svg.ARROW,
            linewidths=0,
            zorder=6,
        )


def _draw_axes(axes: "Axes", lanes: dict[str, _Lane], scale: LaneScale) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    minutes = scale.span_s >= _MINUTES_FROM_S
    unit_s, unit = (60.0, "min") if minutes else (1.0, "s")
    axes.set_xlim(0, scale.span_s)
    axes.set_ylim(-0.08, len(lanes))
    axes.set_yticks([lane.zero for lane in lanes.values()], list(lanes))
    axes.tick_params(axis="y", labelcolor=svg.INK)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    ticks = MaxNLocator(nbins=8, steps=[1, 2, 3, 5, 10]).tick_values(0, scale.span_s / unit_s)
    axes.set_xticks([tick * unit_s for tick in ticks if 0 <= tick * unit_s <= scale.span_s])
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda at, _: f"{at / unit_s:g} {unit}" if at else "0")
    )
    axes.grid(visible=True, axis="x", zorder=0)
    axes.set_axisbelow(True)
    _draw_scale(axes, len(lanes) - 1, scale)


def _draw_scale(axes: "Axes", row: int, scale: LaneScale) -> None:
    """Label the height once, to the right of the first lane."""
    places = {scale.top_steps: "≥ ", scale.bottom_steps: "≤ "}
    if row < _TALL_LANES:
        places[0.0] = ""
    for steps, bound in places.items():
        height = row + _LANE * scale.height(steps)
        label = f"{bound}{steps:+,.0f}" if steps else "0"
        axes.annotate(
            label.replace("-", "\N{MINUS SIGN}"),
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=svg.MUTED,
        )


def _nice(value: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if value <= step * power * 1.0001))
