"""What processes have counted, as plain data that can be added up.

Only counters and histograms are added; gauges are the scheduler's own, but for the open streams.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from prometheus_client import CollectorRegistry

from llumnix.admin.schema import Totals
from llumnix.metrics.catalogue import PREFIX
from llumnix.metrics.gauge_table import TableMetric
from llumnix.metrics.tally import Tally

Figures = Mapping[str, Any]
"""`rows`: [name of the metric, of the sample, labels as pairs, value] each; `totals`: by name."""
Keepsake = Mapping[str, Any]
"""`seq`; `dead`: figures of all that is gone, and of the scheduler that says so; `there`: those of
the frontends that are linked, by name."""

_ADDED: Final = ("counter", "histogram")
_STREAMS: Final = PREFIX + "streams_open"
_KEPT: Final = 1000
NOTHING: Final[Figures] = {"rows": [], "totals": {}}


def figures_of(tally: Tally) -> Figures:
    """Return all that a process has counted."""
    rows = [
        [metric, name, [list(each) for each in labels], value]
        for (metric, name, labels), value in _samples(tally.metrics.registry).items()
    ]
    totals = Tally.totals(tally)  # where others are added, its own alone
    plain = {each.name: getattr(totals, each.name) for each in fields(totals)}
    lists = {key: list(value) for key, value in plain.items() if isinstance(value, tuple)}
    return {"rows": rows, "totals": {**plain, **lists}}


def added(all_of: Iterable[Figures]) -> Figures:
    """Return the sum of figures; of what is listed, the latest."""
    rows: Counter[tuple[str, str, tuple[tuple[str, str], ...]]] = Counter()
    totals: dict[str, Any] = {}
    for figures in all_of:
        for metric, name, labels, value in figures["rows"]:
            rows[metric, name, tuple((key, text) for key, text in labels)] += value
        for name, value in figures["totals"].items():
            if isinstance(value, list):
                totals[name] = [*totals.get(name, []), *value][-_KEPT:]
            else:
                totals[name] = totals.get(name, 0) + value
    plain = [[*key[:2], [list(each) for each in key[2]], value] for key, value in rows.items()]
    return {"rows": plain, "totals": totals}


def of_the_dead(figures: Figures) -> Figures:
    """Return what stays of the figures of a process that is gone: its streams are not open."""
    rows = [each for each in figures["rows"] if each[0] != _STREAMS]
    return {"rows": rows, "totals": {**figures["totals"], "streams_open": 0}}


def totals_of(figures: Figures) -> Totals:
    """Return figures as the admin API tells them."""
    plain = figures["totals"]
    told: dict[str, Any] = {
        key: tuple(each) if isinstance(each, list) else each for key, each in plain.items()
    }
    return Totals(**told)


def _samples(
    registry: CollectorRegistry,
) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], float]:
    return {
        (metric.name, sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in registry.collect()
        if not isinstance(metric, TableMetric)
        and metric.name.startswith(PREFIX)
        and (metric.type in _ADDED or metric.name == _STREAMS)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }
