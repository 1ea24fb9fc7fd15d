"""The table keeps up with its instances: what it says is what looking at each of them says."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llumnix.fleet.events import EventRing
from llumnix.fleet.faults.health import FleetHealth
from llumnix.fleet.faults.suspects import Standing
from llumnix.fleet.placement import PlacementRequest, candidates
from llumnix.fleet.requests import RequestTable
from llumnix.instances.condition.breaker import BreakerLimits
from llumnix.instances.condition.standstill import Motion
from llumnix.instances.instance import Identity, Instance, InstanceKind, InstanceState
from llumnix.instances.table import InstanceTable
from policies.types import DispatchRequest, FleetSnapshot, InstanceId, InstanceLoad, RequestId
from tests.llumnix.fleet import placement_by_hand
from tests.llumnix.frontend.stage import load
from tests.policies.fleets import law

CLASSES = 2
NAMES = st.sampled_from([InstanceId(name) for name in "abcdef"])
SOME = st.frozensets(NAMES, max_size=3)
NUMBERS = st.integers(0, 5)


def plain(snapshot: FleetSnapshot) -> list[tuple[object, ...]]:
    """Write a snapshot out row by row, its groups by what they are and not by their numbers."""
    columns = [
        getattr(snapshot, name).tolist()
        for name in FleetSnapshot.__slots__
        if isinstance(getattr(snapshot, name), np.ndarray) and name not in ("group", "age_s")
    ]
    groups = [snapshot.groups[number] for number in snapshot.group]
    ages = [round(age_s, 9) for age_s in snapshot.age_s.tolist()]
    return list(zip(snapshot.ids, groups, ages, *columns, strict=True))


class Fleet(RuleBasedStateMachine):
    """Whatever happens to instances, and in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.table = InstanceTable(CLASSES, lambda: self.now_s, BreakerLimits(2, open_s=3.0))
        self.requests = RequestTable()
        self.health = FleetHealth(
            3,
            self.requests,
            EventRing(),
            lambda: self.now_s,
            lambda: None,
            clock_s=lambda: self.now_s,
        )
        self.taken: list[tuple[FleetSnapshot, list[tuple[object, ...]]]] = []
        self.added = 0

    @initialize(count=st.integers(1, 5))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.join()
        for number in range(count):
            self.up(number, InstanceId("abcdef"[number]), plugged=True)
            self.report(number, 100 * number, 1, 0)

    def pick(self, number: int) -> Instance | None:
        everyone = list(self.table)
        return everyone[number % len(everyone)] if everyone else None

    @rule()
    def join(self) -> None:
        self.added += 1
        self.table.add(Instance.at(f"http://host-{self.added}:1"))

    @rule(number=NUMBERS)
    def leave(self, number: int) -> None:
        if (instance := self.pick(number)) is not None:
            self.table.remove(instance)
            instance.take_load(load("gone"), self.now_s)  # it is nobody's concern any more

    @rule(number=NUMBERS, name=NAMES, plugged=st.booleans())
    def up(self, number: int, name: InstanceId, *, plugged: bool) -> None:
        instance = self.pick(number)
        if instance is None or any(each.id == name for each in self.table):
            return
        kind = InstanceKind.PLUGGED if plugged else InstanceKind.UNTOUCHED
        models = ({"id": "m"},) if number % 3 else ({"id": "m"}, {"id": "n"})
        identity = Identity(name, kind, models, engine="vllm" if number % 2 else "")
        instance.become(identity, object())  # type: ignore[arg-type]

    @rule(number=NUMBERS, used=st.integers(0, 900), running=st.integers(0, 4), more=NUMBERS)
    def report(self, number: int, used: int, running: int, more: int) -> None:
        instance = self.pick(number)
        if instance is None or instance.link is None:
            return
        told: InstanceLoad = load(
            "as it calls itself",
            physical_tokens=used,
            running=(running, more),
            waiting=(0, more % 2),
            queued_demand_tokens=more,
            reserved_tokens=7 * more,
        )
        instance.take_load(told, self.now_s)

    @rule(number=NUMBERS, what=st.sampled_from(["lose", "drain", "serve", "models", "rename"]))
    def change(self, number: int, what: str) -> None:
        if (instance := self.pick(number)) is None:
            return
        actions: dict[str, Callable[[], None]] = {
            "lose": instance.lose,
            "drain": lambda: instance.set_draining(on=True),
            "serve": lambda: instance.set_draining(on=False),
            "models": lambda: instance.know_models([{"id": f"model-{number}"}, {"id": "m"}]),
            "rename": lambda: setattr(instance, "id", InstanceId(instance.endpoint.address.name)),
        }
        actions[what]()

    @rule(number=NUMBERS, what=st.sampled_from(["fails", "serves", "busy", "hangs", "moves"]))
    def live(self, number: int, what: str) -> None:
        if (instance := self.pick(number)) is None:
            return
        name = RequestId("some")
        actions: dict[str, Callable[[], object]] = {
            "fails": lambda: self.health.failed(instance, name, "status", "it said 500"),
            "serves": lambda: self.health.served(instance),
            "busy": lambda: self.health.busy(instance, name, 2.0),
            "hangs": lambda: self.health.engine_seen(instance, Motion(5.0)),
            "moves": lambda: self.health.engine_seen(instance, Motion(moved=True, idle=True)),
        }
        actions[what]()

    @rule(name=NAMES)
    def blame(self, name: InstanceId) -> None:
        self.health.suspects.died(name, [(RequestId("poison"), Standing.NEW)], self.now_s)

    @rule(passed_s=st.sampled_from([0.1, 1.0, 4.0]))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s

    @rule(
        who=st.sampled_from(["other", "poison"]),
        model=st.sampled_from([None, "m", "n"]),
        avoided=SOME,
        barred=SOME,
        plugged_only=st.booleans(),
        or_vllm=st.booleans(),
    )
    def place(self, who: str, model: str | None, **named: object) -> None:
        """The same instances in the same order, and the same reasons."""
        request = DispatchRequest(RequestId(who), 1, 10, 0.0, model)
        ask = PlacementRequest(request, **named)  # type: ignore[arg-type]
        rows, left_out = placement_by_hand.candidates(ask, self.table, self.health)
        found = candidates(ask, self.table, self.health)
        chosen = list(self.table) if found.rows is None else list(map(self.table.at, found.rows))

        assert chosen == rows
        assert list(found.left_out.items()) == list(left_out.items())
        self.compare(self.table.snapshot_of(found.rows), rows)

    def compare(self, snapshot: FleetSnapshot, instances: list[Instance]) -> None:
        with_load = [(each, each.load) for each in instances if each.load is not None]
        loads = [replace(told, instance_id=each.id) for each, told in with_load]
        groups = [each.group for each, _ in with_load]
        expected = FleetSnapshot.of(loads, self.now_s, CLASSES, groups)
        assert plain(snapshot) == plain(expected)
        self.taken.append((snapshot, plain(snapshot)))

    @invariant()
    def what_is_asked_is_what_is(self) -> None:
        everyone = list(self.table)
        alive = [each for each in everyone if each.alive]
        assert self.table.alive() == alive
        assert self.table.up() == [each for each in everyone if each.state is InstanceState.UP]
        assert self.table.any_plugged() == any(each.plugged for each in everyone)
        assert self.table.groups() == {each.group for each in everyone}
        for each in everyone:
            assert self.table.get(each.id) is each
        self.compare(self.table.snapshot(alive), alive)

    def teardown(self) -> None:
        """What was handed out before never changed."""
        for snapshot, before in self.taken:
            assert plain(snapshot) == before


TestFleet = Fleet.TestCase
TestFleet.settings = law


def test_classes_that_only_an_engine_knows_count_as_the_least_urgent() -> None:
    table = InstanceTable(CLASSES, lambda: 0.0)
    instance = Instance.at("http://a:1")
    table.add(instance)
    instance.link = object()  # type: ignore[assignment]
    instance.take_load(load("a", running=(1, 2, 3), waiting=(4,)), 0.0)

    snapshot = table.snapshot([instance])

    assert snapshot.class_running.tolist() == [[1, 5]]
    assert snapshot.class_waiting.tolist() == [[4, 0]]
