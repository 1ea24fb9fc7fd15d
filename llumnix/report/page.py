"""Assemble the report's parts into one HTML file."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

from llumnix.errors import ConfigError
from llumnix.report.data import NamedRun, RunReport, named
from llumnix.report.distributions import downtimes, tail
from llumnix.report.headline import headline, invalid_notes
from llumnix.report.lanes import LaneScale, freeness_lanes
from llumnix.report.sizes import fleet_size
from llumnix.report.table import runs_table
from llumnix.report.trust import trust_table

_EMULATED: Final = (
    "<b>Emulated</b> means that no GPU computed these tokens. Each instance batches, allocates KV "
    "blocks and preempts as vLLM does, and waits as long as the named GPU would have taken. "
    "The rest is real: HTTP, scheduling, and migrations that copy the bytes of every KV block. "
    "Each token is computed from those bytes, so a single lost, stale or swapped block would "
    "change "
    "the output. Times are emulated; a run is invalid if its emulation fell behind its clock."
)


def write_report(
    path: Path | str, runs: Sequence[RunReport], title: str, meta: Mapping[str, str]
) -> None:
    """Write the report; `meta` is shown as it is. Raises ConfigError if it cannot be written."""
    text = page(runs, title, meta)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {path}: {error.strerror}") from error


def page(runs: Sequence[RunReport], title: str, meta: Mapping[str, str]) -> str:
    """Return the whole page as HTML text."""
    known = named(runs)
    style = (files("llumnix.report") / "style.css").read_text(encoding="utf-8")
    notes = "".join(f'<p class="warning">{note}</p>' for note in invalid_notes(known))
    facts = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in meta.items()
    )
    valid = [one for one in known if one.run.valid]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · Llumnix</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<p class="kicker">Llumnix</p>
<h1>{escape(title)}</h1>
<p class="lead">{headline(known)}</p>
</header>
{notes}
<div class="wide">{runs_table(known)}</div>
{_trust(known)}
{_latencies(valid)}
{_sizes(valid)}
{_lanes(known)}
{_downtimes(valid)}
<footer>
<h2>How this was measured</h2>
<dl>{facts}</dl>
<p>{_EMULATED}</p>
</footer>
</main>
</body>
</html>
"""


def _section(title: str, explanation: str, figures: str) -> str:
    return f"<section><h2>{title}</h2><p>{explanation}</p>{figures}</section>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"


def _swatch(one: NamedRun) -> str:
    return f'<span class="key"><i class="swatch run-{one.colour % 6}"></i>{escape(one.name)}</span>'


def _trust(runs: Sequence[NamedRun]) -> str:
    table = trust_table(runs)
    if not table:
        return ""
    return _section(
        "How far to trust these times",
        "A busy machine completes emulated steps late, and the times are then those of the machine "
        "rather than the fleet. So every step is timed: it is <em>late</em> if it completed more "
        "than one decode step after its due time. The speed of a valid run does not matter: its "
        "times are the fleet's. Lateness never changes a token.",
        f'<div class="wide">{table}</div>',
    )


def _latencies(runs: Sequence[NamedRun]) -> str:
    figures = []
    for name, values, scale, unit, title in (
        ("ttft", [one.run.ttft_s for one in runs], 1.0, "s", "Time to first token, seconds"),
        (
            "tpot",
            [one.run.tpot_s for one in runs],
            1e3,
            "ms",
            "Time per output token, milliseconds",
        ),
    ):
        drawn = [(one, list(part)) for one, part in zip(runs, values, strict=True) if len(part)]
        if drawn:
            picture = tail(
                drawn, scale, unit, name, f"{title}: share of requests slower, by policy"
            )
            figures.append(_figure(picture, title))
    if not figures:
        return ""
    return _section(
        "How long requests waited",
        "The share of requests that took longer than the time on the x axis. Lower and further "
        "left "
        "is better; both scales are logarithmic, so that the slowest requests are in plain sight. "
        "A line crosses the dashed one at its P99.",
        f'<p class="keys">{"".join(_swatch(one) for one in runs)}</p>'
        f'<div class="pair">{"".join(figures)}</div>',
    )


def _sizes(runs: Sequence[NamedRun]) -> str:
    figures = []
    for number, one in enumerate(runs):
        end_s = one.run.figure("duration_s")
        if len(one.run.sizes) > 1 and end_s:
            figures.append(_figure(fleet_size(one, end_s, f"size{number}"), _swatch(one)))
    if not figures:
        return ""
    return _section(
        "How large the fleet was",
        "Machines over time: the line shows the machines held, and paid for, from order to return; "
        "the area below it shows those that had started, whether serving or draining.",
        "".join(figures),
    )


def _lanes(runs: Sequence[NamedRun]) -> str:
    scale = LaneScale.of(one.run for one in runs)
    if scale is None:
        return ""
    figures = []
    for number, one in enumerate(runs):
        if not one.run.freeness:
            continue
        moves = len(one.run.migrations)
        what = f"{moves:,} migrations" if moves else "no migrations"
        caption = f"{_swatch(one)} <small>{what}</small>"
        if not one.run.valid:
            caption += ' <span class="badge no">not valid</span>'
        figures.append(_figure(freeness_lanes(one, scale, f"lanes{number}"), caption))
    return _section(
        "Free capacity of each instance, and migrations",
        "One lane per instance. Its height is <em>freeness</em>: how many more decode steps the "
        'instance could run. <span class="room">Above the line</span> there is room; '
        '<span class="shortage">below it</span>, demand exceeds the memory, and requests wait. '
        "Each thin arrow is one running request that migrates from one instance to another. All "
        "runs share the same scales; far from the line, heights are logarithmic.",
        "".join(figures),
    )


def _downtimes(runs: Sequence[NamedRun]) -> str:
    figures = [
        _figure(downtimes(one, f"down{number}"), f"{_swatch(one)}")
        for number, one in enumerate(runs)
        if len(one.run.downtime_ms)
    ]
    if not figures:
        return ""
    return _section(
        "What a migration costs its client",
        "The downtime of each migration: the pause between the last token from the source and the "
        "first new one from the destination, less the stream's usual time per token.",
        f'<div class="pair">{"".join(figures)}</div>',
    )
