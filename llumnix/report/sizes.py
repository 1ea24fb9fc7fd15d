"""The plot of a fleet's size, if it scales with the load."""

from typing import Final

import numpy as np

from llumnix.report import svg
from llumnix.report.data import NamedRun

_WIDTH_IN: Final = 10.0
_HEIGHT_IN: Final = 2.2


def fleet_size(named: NamedRun, end_s: float, name: str) -> str:
    """Plot a run's machines over time, until its end, as inline SVG.

    The line shows the machines held, and paid for; the area below it those that have started.
    """
    from matplotlib.ticker import MaxNLocator

    rows = np.array([*named.run.sizes, (end_s, *named.run.sizes[-1][1:])], dtype=np.float64)
    at_s, held, started = rows.T
    colour = svg.run_colour(named.colour)
    with svg.plot(_WIDTH_IN, _HEIGHT_IN) as (figure, axes):
        axes.fill_between(at_s, 0, started, step="post", color=colour, alpha=0.25, linewidth=0)
        axes.step(at_s, held, where="post", color=colour, linewidth=1.6)
        axes.set_xlim(0, end_s)
        axes.set_ylim(0, held.max() + 1)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel("s")
        axes.set_ylabel("machines")
        axes.grid(visible=True, axis="y")
        axes.set_axisbelow(True)
        what = f"Machines held over time under {named.name}: {held.max():.0f} at most"
        return svg.inline(figure, name, what)
