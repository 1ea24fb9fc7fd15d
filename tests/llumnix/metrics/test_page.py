"""The page we write piece by piece is the one prometheus-client writes."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    generate_latest,
)

from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.gauge_table import GaugeTable
from llumnix.metrics.page import page
from tests.policies.fleets import law

NAMES = st.text(max_size=4) | st.sampled_from(["a", "b", 'say "x"', "back\\slash", "two\nlines"])
VALUES = st.floats() | st.integers(-5, 10**9) | st.booleans()


def written(registry: CollectorRegistry) -> str:
    return "".join(page(registry))


def expected(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


@law
@given(rows=st.lists(st.tuples(NAMES, NAMES, VALUES), max_size=6))
def test_a_page_is_the_librarys(rows: list[tuple[str, str, float]]) -> None:
    registry = CollectorRegistry()
    PlatformCollector(registry)
    counter = Counter("one_total", 'Of "this"\nand \\that.', ("b", "a"), registry=registry)
    table = GaugeTable("two", "Two.\nLines.", ("z", "a"), registry)
    Gauge("three", "Without labels.", registry=registry).set(3)
    histogram = Histogram("four", "Four.", ("a",), registry=registry)
    for one, other, value in rows:
        counter.labels(b=one, a=other).inc()
        table.labels(z=one, a=other).set(value)
        histogram.labels(a=one).observe(1.0)

    assert written(registry) == expected(registry)


def test_long_families_come_in_pieces_none_of_which_is_long() -> None:
    """Rows under a heading of their own, at the end, included."""
    metrics = FleetMetrics(CollectorRegistry())
    for number in range(700):
        metrics.dispatched("freeness", f"instance-{number}").inc(number)
        metrics.of_instance(f"instance-{number}").freeness.set(number / 3)
        metrics.ttft_seconds.labels(class_name=f"class-{number % 20}").observe(0.1)
    pieces = list(page(metrics.registry))

    assert "".join(pieces) == expected(metrics.registry)
    assert max(piece.count("\n") for piece in pieces) <= 205


class Tables(RuleBasedStateMachine):
    """A table and the library's gauge, through the same life."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs = CollectorRegistry(), CollectorRegistry()
        self.table = GaugeTable("g", "A gauge.", ("instance_id", "kind"), self.ours)
        self.gauge = Gauge("g", "A gauge.", ("instance_id", "kind"), registry=self.theirs)
        self.keys: set[tuple[str, str]] = set()

    @rule(name=NAMES, kind=st.sampled_from(["x", "y"]), value=VALUES)
    def set(self, name: str, kind: str, value: float) -> None:
        self.table.labels(instance_id=name, kind=kind).set(value)
        self.gauge.labels(instance_id=name, kind=kind).set(value)
        self.keys.add((name, kind))

    @rule(name=NAMES)
    def drop_all_but(self, name: str) -> None:
        self._drop(lambda key: key[0] != name, lambda: self.table.retain(0, {name}))

    @rule(name=NAMES)
    def drop_rows(self, name: str) -> None:
        self._drop(lambda key: key != (name, "x"), lambda: self.table.retain_rows({(name, "x")}))

    def _drop(self, goes: Callable[[tuple[str, str]], bool], drop: Callable[[], None]) -> None:
        drop()
        for key in filter(goes, list(self.keys)):
            self.gauge.remove(*key)
            self.keys.discard(key)

    @invariant()
    def both_show_the_same(self) -> None:
        assert written(self.ours) == expected(self.ours) == expected(self.theirs)


TestTables = Tables.TestCase
TestTables.settings = law


def test_a_row_that_went_and_comes_again_is_counted_on_the_page() -> None:
    """What is kept at hand of an instance that left is not what its successor counts by."""
    metrics = FleetMetrics(CollectorRegistry())
    for known in (["a"], [], ["a"]):
        metrics.retain_instances(known, known)
        for name in known:
            metrics.dispatched("p", name).inc()
            metrics.of_instance(name).running.set(7)

    shown = written(metrics.registry)
    assert 'llumnix_dispatch_total{instance_id="a",policy="p"} 1.0' in shown
    assert 'llumnix_instance_running{instance_id="a"} 7.0' in shown
