"""The metrics page, written piece by piece, so that others can run in between.

It is byte for byte what prometheus-client's `generate_latest` writes.
"""

import copy
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from llumnix.metrics.gauge_table import TableMetric, family, header

_AT_ONCE = 200
"""How many rows make a piece."""
_AT_THE_END = ("_created", "_gcount", "_gsum")
"""What prometheus-client writes below all other rows of a metric, each under a heading."""


def page(registry: Collector) -> Iterator[str]:
    """Write the metrics of a registry in pieces that take a millisecond or so each."""
    for metric in registry.collect():
        if isinstance(metric, TableMetric):
            yield header(metric)
            yield from metric.table.lines()
        elif len(metric.samples) <= _AT_ONCE:
            yield family(metric)
        else:
            yield from _long(metric)


def _long(metric: Metric) -> Iterator[str]:
    """Write a metric with many rows: each piece by itself, less the heading it repeats."""
    heading = family(_with(metric, []))
    yield heading
    last: dict[str, list[Sample]] = {}
    rows: list[Sample] = []
    for sample in metric.samples:
        suffix = sample.name.removeprefix(metric.name)
        (last.setdefault(suffix, []) if suffix in _AT_THE_END else rows).append(sample)
    for piece in _pieces(rows):
        yield family(_with(metric, piece)).removeprefix(heading)
    for _, created in sorted(last.items()):
        for number, piece in enumerate(_pieces(created)):
            text = family(_with(metric, piece)).removeprefix(heading)
            yield text if number == 0 else text.split("\n", 2)[2]


def _pieces(samples: list[Sample]) -> Iterator[list[Sample]]:
    for start in range(0, len(samples), _AT_ONCE):
        yield samples[start : start + _AT_ONCE]


def _with(metric: Metric, samples: list[Sample]) -> Metric:
    other = copy.copy(metric)
    other.samples = samples
    return other
