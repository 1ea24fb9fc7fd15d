"""Gauges with many rows: set row by row, and written out without a detour.

prometheus-client makes some objects per row and page, which for a thousand instances takes longer
than streams may wait. Here a row is a value and the text that stands before it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString


class GaugeRow:
    """One series; `set` it. `text` is what a page shows before its value."""

    __slots__ = ("text", "value")

    def __init__(self, text: str) -> None:
        self.text = text
        self.value = 0.0

    def set(self, value: float) -> None:
        """Set the value that is shown from now on."""
        self.value = float(value)


class TableMetric(Metric):
    """What prometheus-client is given: its samples are made only if it asks for them."""

    def __init__(self, table: "GaugeTable") -> None:
        self.table = table
        super().__init__(table.name, table.help, "gauge")

    @property
    def samples(self) -> list[Sample]:
        """Every row as a sample."""
        return self.table.samples()

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        """Ignore the list that every metric begins with."""


class GaugeTable(Collector):
    """A gauge with labels, as `prometheus_client.Gauge` is one, for hundreds of rows and more."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self.name = name
        self.help = text
        self._labels = tuple(labels)
        self._rows: dict[tuple[str, ...], GaugeRow] = {}
        registry.register(self)

    def labels(self, **values: object) -> GaugeRow:
        """Return the row of these labels, all of which must be given; a new one is 0."""
        key = tuple(str(values[name]) for name in self._labels)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = GaugeRow(self._text(key))
        return row

    def retain(self, at: int, values: Collection[str]) -> None:
        """Drop the rows whose label number `at` is none of these."""
        self._drop([key for key in self._rows if key[at] not in values])

    def retain_rows(self, keys: Collection[tuple[str, ...]]) -> None:
        """Drop the rows whose labels are none of these."""
        self._drop([key for key in self._rows if key not in keys])

    def _drop(self, keys: Iterable[tuple[str, ...]]) -> None:
        for key in keys:
            del self._rows[key]

    def describe(self) -> Iterable[Metric]:
        """Tell the registry the name."""
        return [GaugeMetricFamily(self.name, self.help)]

    def collect(self) -> Iterable[Metric]:
        """Return what prometheus-client would make of a gauge."""
        return [TableMetric(self)]

    def samples(self) -> list[Sample]:
        """Return every row as a sample."""
        return [
            Sample(self.name, dict(zip(self._labels, key, strict=True)), row.value)
            for key, row in self._rows.items()
        ]

    def lines(self) -> Iterator[str]:
        """Write the rows as a page shows them, one by one; rows may come and go meanwhile."""
        number: Callable[[float], str] = floatToGoString
        for row in list(self._rows.values()):
            yield f"{row.text}{number(row.value)}\n"

    def _text(self, key: tuple[str, ...]) -> str:
        one = GaugeMetricFamily(self.name, "", labels=self._labels)
        one.add_metric(key, 0.0)
        page = generate_latest(_Only(one)).decode()
        return page.removesuffix("0.0\n").rpartition("# TYPE")[2].partition("\n")[2]


class _Only(Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        """Return it."""
        return [self._metric]


def header(metric: Metric) -> str:
    """Write what stands above a metric's rows on a page."""
    return generate_latest(_Only(GaugeMetricFamily(metric.name, metric.documentation))).decode()


def family(metric: Metric) -> str:
    """Write one metric as prometheus-client does."""
    return generate_latest(_Only(metric)).decode()
