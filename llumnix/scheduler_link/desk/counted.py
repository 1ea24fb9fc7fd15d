"""What all processes have counted together: no total ever goes backwards, whoever dies."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from llumnix.admin.schema import Totals
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.gauge_table import TableMetric
from llumnix.metrics.tally import Tally
from llumnix.scheduler_link.figures import (
    NOTHING,
    Figures,
    Keepsake,
    added,
    figures_of,
    of_the_dead,
    totals_of,
)


class Counted(Collector):
    """Adds up the scheduler's figures, those of linked frontends, and those of all who have died.

    What is kept of the dead, and of this scheduler, is given to the frontends (`keepsake`) so that
    the next scheduler begins with it.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._there: dict[str, Figures] = {}
        self._dead: Figures = NOTHING
        self._inherited_at = -1
        self._buried: dict[str, Figures] = {}

    def came(self, name: str, keepsake: Keepsake | None) -> None:
        """Note that a frontend is linked, and what the scheduler before this one left with it."""
        if keepsake is not None and keepsake["seq"] > self._inherited_at:
            self._inherited_at = keepsake["seq"]
            self._dead = keepsake["dead"]
            unseen = {each: it for each, it in keepsake["there"].items() if each not in self._there}
            self._buried.update(unseen)
        self._there.setdefault(name, self._buried.pop(name, NOTHING))

    def told(self, name: str, figures: Figures) -> None:
        """Note what a frontend has counted."""
        if name in self._there:
            self._there[name] = figures

    def left(self, name: str) -> None:
        """Note that a frontend has died, or lost its link: its figures stay as they were."""
        figures = self._there.pop(name, None)
        if figures is not None:
            self._buried[name] = figures

    def keepsake(self) -> Keepsake:
        """Return what must outlive this process."""
        self._inherited_at += 1
        own = of_the_dead(figures_of(self._tally))
        buried = [of_the_dead(each) for each in self._buried.values()]
        return {
            "seq": self._inherited_at,
            "dead": added([self._dead, own, *buried]),
            "there": self._there,
        }

    def others(self) -> Figures:
        """Return the sum of all that this process has not counted itself."""
        buried = [of_the_dead(each) for each in self._buried.values()]
        return added([self._dead, *buried, *self._there.values()])

    def totals(self) -> Totals:
        """Return the totals of all together."""
        return totals_of(added([figures_of(self._tally), self.others()]))

    def collect(self) -> Iterator[Metric]:
        """Return the scheduler's metrics with those of all others added, for a page."""
        rows: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for metric, name, labels, value in self.others()["rows"]:
            key = name, tuple((each[0], each[1]) for each in labels)
            rows.setdefault(metric, {})[key] = value
        for metric in self._tally.metrics.registry.collect():
            more = rows.get(metric.name)
            if more and not isinstance(metric, TableMetric):
                metric.samples = _summed(metric.samples, more)
            yield metric


class SharedTally(Tally):
    """The tally of a scheduler that serves several frontends: its totals are those of all."""

    counted: Counted | None = None

    def totals(self) -> Totals:
        """Return the totals of all processes for the admin API."""
        return super().totals() if self.counted is None else self.counted.totals()


def shared_tally(metrics: FleetMetrics, class_names: list[str]) -> tuple[SharedTally, Counted]:
    """Make a tally, and what adds others to it."""
    tally = SharedTally(metrics, class_names)
    tally.counted = Counted(tally)
    return tally, tally.counted


def _summed(
    samples: list[Sample], more: Mapping[tuple[str, tuple[tuple[str, str], ...]], Any]
) -> list[Sample]:
    left = dict(more)
    summed = []
    for each in samples:
        value = left.pop((each.name, tuple(sorted(each.labels.items()))), 0.0)
        summed.append(each._replace(value=each.value + value))
    return summed + [Sample(name, dict(labels), value) for (name, labels), value in left.items()]
