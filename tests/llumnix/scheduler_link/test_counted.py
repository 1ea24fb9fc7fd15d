"""No total goes backwards, whichever process dies, and none is counted twice."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from prometheus_client import CollectorRegistry

from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from llumnix.scheduler_link.desk.counted import Counted, shared_tally
from llumnix.scheduler_link.figures import Keepsake, figures_of
from tests.policies.fleets import law

WORKERS = ("a", "b", "c")


def _tally() -> Tally:
    return Tally(FleetMetrics(CollectorRegistry()), ["normal"])


def _page(counted: Counted) -> float:
    return sum(
        sample.value
        for metric in counted.collect()
        if metric.name == "llumnix_requests"
        for sample in metric.samples
        if sample.name == "llumnix_requests_total"
    )


class Deaths(RuleBasedStateMachine):
    """Workers that count, a scheduler that adds up, and any of them dying."""

    @initialize()
    def begin(self) -> None:
        self.ended = self.shown = self.born = 0
        self.seen: dict[str, int] = {}
        self.keepsakes: dict[str, Keepsake | None] = {}
        self.workers: dict[str, Tally] = {}
        self._schedule()
        for name in WORKERS:
            self._hire(name)

    def _schedule(self) -> None:
        tally, self.counted = shared_tally(FleetMetrics(CollectorRegistry()), ["normal"])
        del tally

    def _hire(self, name: str) -> None:
        self.born += 1
        own = f"{name}-{self.born}"
        self.workers[own] = _tally()
        self.keepsakes[own] = None
        self.counted.came(own, None)

    @rule(which=st.integers(0, 2))
    def count(self, which: int) -> None:
        self.workers[list(self.workers)[which]].request_ended("normal", "finished")
        self.ended += 1

    @rule()
    def show(self) -> None:
        for name, tally in self.workers.items():
            self.counted.told(name, figures_of(tally))
        keepsake = self.counted.keepsake()
        self.keepsakes = dict.fromkeys(self.workers, keepsake)
        page, total = _page(self.counted), self.counted.totals().finished
        assert page == total
        assert self.shown <= page <= self.ended
        self.shown = int(page)

    @rule(which=st.integers(0, 2))
    def worker_dies(self, which: int) -> None:
        name = list(self.workers)[which]
        del self.workers[name], self.keepsakes[name]
        self.counted.left(name)
        self._hire(name[0])

    @rule(which=st.integers(0, 2))
    def link_breaks(self, which: int) -> None:
        name = list(self.workers)[which]
        self.counted.left(name)
        self.counted.came(name, self.keepsakes[name])

    @rule()
    def scheduler_dies(self) -> None:
        self._schedule()
        for name, keepsake in self.keepsakes.items():
            self.counted.came(name, keepsake)


test_totals_never_go_backwards = law(Deaths)
