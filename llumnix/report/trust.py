"""How far to trust each run: whether it measured the fleet or the machine it ran on."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from llumnix.report.data import NamedRun

_METER_BOUNDS: Final = 2.5
"""The value of a full meter, in bounds."""


def trust_table(runs: Sequence[NamedRun]) -> str:
    """Return the table as HTML, one row per run with figures of lateness; "" if there is none."""
    told = [(named, validity) for named in runs if (validity := _validity(named))]
    if not told:
        return ""
    bound = float(told[0][1]["late_steps_bound"])
    rows = "".join(_row(named, validity, bound) for named, validity in told)
    discarded = any(validity.get("discarded_runs") for _, validity in told)
    late = f"late steps (up to {bound:.0%} is valid)"
    titles = ("policy", "", "speed", late, "sent late, p99", "discarded runs" if discarded else "")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return f'<table class="trust"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _validity(named: NamedRun) -> Mapping[str, Any]:
    """Return a run's figures of lateness; empty if they were not measured."""
    validity = named.run.result.get("validity")
    if not isinstance(validity, Mapping) or validity.get("late_steps_share") is None:
        return {}
    return validity


def _row(named: NamedRun, validity: Mapping[str, Any], bound: float) -> str:
    swatch = f'<i class="swatch run-{named.colour % 6}"></i>'
    word, kind = ("valid", "yes") if named.run.valid else ("not valid", "no")
    cells = (
        f'<span class="badge {kind}">{word}</span>',
        f"{named.run.figure('speed') or 1.0:g}&thinsp;&times;",
        _meter(float(validity["late_steps_share"]), bound),
        f"{float(validity['slip_p99_s']):.2f}&nbsp;s",
        _discarded(validity.get("discarded_runs") or ()),
    )
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{swatch}{escape(named.name)}</th>{body}</tr>'


def _meter(share: float, bound: float) -> str:
    """Return a share as a bar with a mark at the bound, and its figure beside it."""
    filled = min(share / bound / _METER_BOUNDS, 1.0)
    over = " over" if share > bound else ""
    return (
        f'<span class="meter{over}" aria-hidden="true"><i style="width:{filled:.1%}"></i>'
        f'<b style="left:{1 / _METER_BOUNDS:.1%}"></b></span>{share:.2%}'
    )


def _discarded(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the policy's runs that were discarded as too late."""
    told = []
    for one in runs:
        share = float(one["late_steps_share"] or 0.0)
        told.append(f"{one['speed']:g}&thinsp;&times;: {share:.1%} of steps late")
    return "<br>".join(told)
