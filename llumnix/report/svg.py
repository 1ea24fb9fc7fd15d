"""Inline SVG from matplotlib in the page's colours and fonts.

Colours are drawn as placeholders and replaced by CSS variables afterwards, so one plot suits light
and dark pages and print; text stays text.
"""

import importlib.util
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Final

from llumnix.errors import ConfigError
from simulator.cache_folder import cache_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#010101"
MUTED: Final = "#020202"
GRID: Final = "#030303"
PAPER: Final = "#040404"
ROOM: Final = "#050505"
SHORTAGE: Final = "#060606"
ARROW: Final = "#070707"
COLOURS: Final = 6

_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    ROOM: "var(--room)",
    SHORTAGE: "var(--shortage)",
    ARROW: "var(--arrow)",
    **{f"#0a0a{number:02x}": f"var(--run-{number})" for number in range(COLOURS)},
}

# The keys' type differs between releases of matplotlib.
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llumnix",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify_threshold": 0.5,
}


def require_plots() -> None:
    """Raise ConfigError, saying what to install, if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "the report's plots need matplotlib: pip install 'llumnix-scheduler[plots]'"
        )


def run_colour(number: int) -> str:
    """Return the placeholder colour of the run with this number."""
    return f"#0a0a{number % COLOURS:02x}"


@contextmanager
def plot(width_in: float, height_in: float) -> Iterator[tuple["Figure", "Axes"]]:
    """Open a figure with one axes in the report's style; it is closed with the context."""
    _keep_its_cache_with_ours()
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def _keep_its_cache_with_ours() -> None:
    """Give matplotlib a folder that can be written: without one of its liking it complains."""
    folder = cache_folder()
    if folder is not None:
        os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def inline(figure: "Figure", name: str, description: str) -> str:
    """Return the figure as an SVG element; `name` makes its ids unique on the page.

    Call it inside the `plot` that made the figure: drawing reads the style.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    # Only tags are rewritten: the text between them is labels, and may be anything.
    text = re.sub(r"<[^>]*>", lambda tag: _dressed(tag[0], name), text)
    view = re.search(r'viewBox="[^"]+"', text)
    assert view, "matplotlib always writes a viewBox"
    head = f'<svg {view[0]} role="img" aria-label="{escape(description, quote=True)}">'
    return re.sub(r"<svg\b[^>]*>", lambda _: head, text, count=1).strip()


def _dressed(tag: str, name: str) -> str:
    """Return a tag with unique ids, the page's colours and font, and only visible digits."""
    tag = re.sub(r' xmlns(:\w+)?="[^"]*"', "", tag).replace("xlink:href", "href")
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', tag)
    tag = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", tag)
    tag = re.sub(r"font: ((?:\w+ )*)([\d.]+px)[^;\"]*", _font, tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    for stand_in, variable in _VARIABLES.items():
        tag = tag.replace(stand_in, variable)
    return tag


def _font(shorthand: "re.Match[str]") -> str:
    """Keep the size and weight from the shorthand that older matplotlib releases write."""
    weight = "; font-weight: bold" if {"bold", "700"} & set(shorthand[1].split()) else ""
    return f"font-size: {shorthand[2]}{weight}"
