"""The style of the pictures of docs/paper.md, and what all of them draw."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.types import FloatColumn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, INK, MUTED, GRID, URGENT = "#ffffff", "#1c2126", "#5b646e", "#e3e5e8", "#c2412d"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llumnix",
    "font.sans-serif": ["DejaVu Sans", "Arial"],
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "path.simplify_threshold": 0.5,
}


@contextmanager
def figure_at(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """Open a figure of so many panels, and write it to the path (its suffix gives the format)."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False)
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=110, metadata=metadata)
    if path.suffix == ".svg":
        path.write_text(_slim(path.read_text()))


def _slim(text: str) -> str:
    """Leave out comments, unused names and invisible digits; write each style once."""
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    text = re.sub(r'\n\s+| id="\w+_\d+"| transform="rotate\(-0 [^"]*"', _break, text)
    rules = []
    for number, style in enumerate(dict.fromkeys(re.findall(r' style="([^"]*)"', text))):
        text = text.replace(f' style="{style}"', f' class="s{number}"')
        rules.append(f".s{number} {{{style}}}")
    return text.replace("<defs>", f"<style>{' '.join(rules)}</style>\n<defs>", 1)


def _break(match: "re.Match[str]") -> str:
    return "\n" if match[0].startswith("\n") else ""


def spread(runs: Iterable[Sequence[float]]) -> tuple[FloatColumn, FloatColumn]:
    """Average figures over the workloads; return their range below and above the mean, too."""
    rows = np.array(list(runs), dtype=np.float64)
    means: FloatColumn = rows.mean(axis=1)
    return means, np.array([means - rows.min(axis=1), rows.max(axis=1) - means])


def hollow(axes: "Axes", x: float, y: float, colour: str) -> None:
    axes.plot([x], [y], "D", markersize=6.0, markerfacecolor=PAPER, color=colour, zorder=4)


def log_axis(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 6:
        middle = (high * low) ** 0.5
        low, high = middle / 2.5, middle * 2.5
    axes.set_ylim(low, high)
    subs = (1.0,) if high / low > 200 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
