"""The pictures of docs/paper.md: the simulated figures, and the paper's points beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_parts.claims import AGAINST_LOAD_AWARE, DOWNTIMES_MS, FRAGMENTED
from paper_parts.downtime import LENGTHS, MODES
from paper_parts.drawing import INK, MUTED, PAPER, URGENT, figure_at, hollow, log_axis, spread
from paper_parts.layout import short
from paper_parts.plan import (
    BASE,
    LLUMNIX,
    LOAD_AWARE,
    ORDER,
    OURS,
    POLICIES,
    PRIORITY_CVS,
    PRIORITY_RATES,
    ROUND_ROBIN,
    TRACES,
)
from paper_parts.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    ROUND_ROBIN: "#b4791f",
    LOAD_AWARE: "#8a63b8",
    LLUMNIX: "#1d6fc2",
    OURS: "#2a8f6d",
}
SHOWN = {"ttft p99": "TTFT, P99, s", "tpot p99": "TPOT, P99, ms", "e2e mean": "E2E, mean, s"}


def draw_all(results: Results, downtimes: Mapping[str, Any], to: Path, suffix: str) -> None:
    """Draw every picture for which there are results."""
    to.mkdir(parents=True, exist_ok=True)
    serving(results, to / f"serving{suffix}")
    losses(results, to / f"losses{suffix}")
    downtime(downtimes, to / f"downtime{suffix}")
    priorities(results, to / f"priorities{suffix}")


def serving(results: Results, path: Path) -> None:
    """Draw latencies by trace, rate and policy; the paper's points are hollow."""
    traces = [trace for trace in TRACES if results.has(trace.name)]
    with figure_at(path, len(SHOWN), len(traces), (1.75 * len(traces) + 0.6, 5.6)) as (
        figure,
        axes,
    ):
        for column, trace in enumerate(traces):
            axes[0][column].set_title(trace.name, color=INK, fontweight="bold", loc="left")
            for row, (what, label) in enumerate(SHOWN.items()):
                panel = axes[row][column]
                scale = 1e3 if what.startswith("tpot") else 1.0
                _lines(panel, results, trace.name, trace.rates, what, scale)
                _paper_points(panel, trace.name, trace.rates, what, scale)
                log_axis(panel)
                if column == 0:
                    panel.set_ylabel(label)
                if row == len(SHOWN) - 1:
                    panel.set_xlabel("requests/s")
        _legend(figure, POLICIES, paper=True)


def _lines(
    axes: "Axes", results: Results, trace: str, rates: Sequence[float], what: str, scale: float
) -> None:
    places = np.arange(len(rates))
    for number, policy in enumerate(POLICIES):
        means, reach = spread(results.values((trace, rate), policy, what) for rate in rates)
        shift = (number - 1.5) * 0.07
        axes.errorbar(
            places + shift,
            means * scale,
            yerr=reach * scale,
            color=COLOURS[policy],
            marker="o",
            markersize=3.4,
            linewidth=1.3,
            elinewidth=0.8,
        )
    axes.set_xticks(places, [f"{rate:g}" for rate in rates])
    axes.set_xlim(-0.35, len(rates) - 0.65)


def _paper_points(
    axes: "Axes", trace: str, rates: Sequence[float], what: str, scale: float
) -> None:
    for claim in AGAINST_LOAD_AWARE:
        if (claim.trace, claim.figure) == (trace, what) and claim.unit and claim.rate in rates:
            for policy, value in ((LOAD_AWARE, claim.over), (LLUMNIX, claim.under)):
                shift = 0.14 * (POLICIES.index(policy) - 1.5)
                hollow(axes, rates.index(claim.rate) + shift, value * scale, COLOURS[policy])


def _legend(figure: "Figure", policies: Sequence[str], *, paper: bool) -> None:
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=COLOURS[name], marker="o", markersize=4) for name in policies]
    names = [f"{name} (ours)" if name == OURS else name for name in policies]
    if paper:
        keys.append(
            Line2D([], [], color=MUTED, marker="D", markerfacecolor=PAPER, linestyle="none")
        )
        names.append("the paper's figure, in the colour of its policy")
    figure.legend(keys, names, loc="outside upper left", ncols=len(keys), handlelength=1.4)


def losses(results: Results, path: Path) -> None:
    """Draw the cost of preemption, and how much memory was fragmented, by trace and policy."""
    traces = [trace for trace in TRACES if results.has(trace.name)]
    with figure_at(path, 1, 2, (9.6, 3.1)) as (figure, axes):
        for panel, what, scale, label in (
            (axes[0][0], "loss mean", 1.0, "preemption loss, mean of all requests, s"),
            (axes[0][1], "fragmented", 100.0, "fragmented memory, % of the fleet's"),
        ):
            for number, policy in enumerate(POLICIES):
                means, reach = spread(
                    results.values((trace.name, trace.middle), policy, what) for trace in traces
                )
                panel.bar(
                    np.arange(len(traces)) + (number - 1.5) * 0.2,
                    means * scale,
                    0.18,
                    yerr=reach * scale,
                    color=COLOURS[policy],
                    error_kw={"elinewidth": 0.8, "ecolor": INK},
                )
            names = [f"{trace.name}\n{trace.middle:g}/s" for trace in traces]
            panel.set_xticks(range(len(traces)), names)
            panel.set_ylim(bottom=0)
            panel.grid(visible=False, axis="x")
            panel.set_title(label, color=INK, loc="left")
        for policy, share in FRAGMENTED.items():
            place = next((at for at, trace in enumerate(traces) if trace.name == "M-M"), 0)
            shift = (POLICIES.index(policy) - 1.5) * 0.2
            hollow(axes[0][1], place + shift, share * 100, COLOURS[policy])
        _legend(figure, POLICIES, paper=True)


def downtime(downtimes: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw downtime by context length: the paper's dashed and hollow, ours filled."""
    colours = dict(
        zip(MODES, (COLOURS[one] for one in (LLUMNIX, LOAD_AWARE, ROUND_ROBIN)), strict=True)
    )
    with figure_at(path, 1, 1, (6.2, 3.5)) as (_, axes):
        panel = axes[0][0]
        for mode, paper in DOWNTIMES_MS.items():
            values = [downtimes[mode][str(length)] for length in LENGTHS]
            means, reach = spread(values)
            colour = colours[mode]
            panel.plot(
                LENGTHS, paper, "D--", color=colour, markerfacecolor=PAPER, markersize=5, lw=0.9
            )
            panel.errorbar(
                LENGTHS, means, yerr=reach, fmt="o-", color=colour, markersize=4, elinewidth=0.8
            )
            lift = {"recompute": 5, "blocking copy": -6}.get(mode, 0)
            panel.annotate(
                mode,
                (LENGTHS[-1], means[-1]),
                xytext=(9, lift),
                textcoords="offset points",
                color=colour,
                va="center",
            )
        panel.set_xscale("log", base=2)
        panel.set_xticks(LENGTHS, [short(length) for length in LENGTHS])
        log_axis(panel)
        panel.set_ylim(bottom=5)
        panel.set_xlabel("context, tokens")
        panel.set_title("Downtime of one move, ms: ours ●, the paper's ◇", color=INK, loc="left")
        panel.margins(x=0.16)


def priorities(results: Results, path: Path) -> None:
    """Draw urgent and normal requests with and without priorities, by burstiness."""
    cvs, rate = [cv for cv in PRIORITY_CVS if results.has_cv(cv)], PRIORITY_RATES[-1]
    panels = {
        "ttft mean": "TTFT, mean, s",
        "tpot mean": "TPOT, mean, ms",
        "e2e mean": "E2E, mean, s",
    }
    with figure_at(path, 1, len(panels), (9.0, 2.9)) as (figure, axes):
        for panel, (what, label) in zip(axes[0], panels.items(), strict=True):
            scale = 1e3 if what.startswith("tpot") else 1.0
            for group, colour in (("high", URGENT), ("normal", MUTED)):
                for policy, style in _PRIORITY_STYLES.items():
                    means, reach = spread(
                        results.urgency((rate, cv), policy, f"{group} {what}") for cv in cvs
                    )
                    panel.errorbar(
                        cvs,
                        means * scale,
                        yerr=reach * scale,
                        linestyle=style,
                        marker="o",
                        color=colour,
                        markersize=3.6,
                        markerfacecolor=PAPER if policy == BASE else colour,
                        linewidth=1.3,
                        elinewidth=0.8,
                    )
            panel.set_xticks(cvs)
            panel.set_xlabel("CV of the gaps between arrivals")
            panel.set_title(label, color=INK, loc="left")
            if what.startswith("ttft"):
                log_axis(panel)
            else:
                panel.set_ylim(bottom=0)
        _priority_legend(figure)


_PRIORITY_STYLES = {LLUMNIX: "-", ORDER: ":", BASE: "--"}
_PRIORITY_NAMES = {LLUMNIX: "headroom", ORDER: "class order alone", BASE: "no priorities"}


def _priority_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    keys, names = [], []
    for policy, style in _PRIORITY_STYLES.items():
        for group, colour in (("urgent", URGENT), ("normal", MUTED)):
            fill = PAPER if policy == BASE else colour
            keys.append(
                Line2D([], [], color=colour, ls=style, marker="o", ms=4, markerfacecolor=fill)
            )
            names.append(f"{group}, {_PRIORITY_NAMES[policy]}")
    figure.legend(keys, names, loc="outside upper left", ncols=3, handlelength=2.6)
