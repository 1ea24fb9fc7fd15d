"""The link to an instance with a llumlet: what becomes of its reports."""

from collections.abc import Sequence

import pytest

from llumnix.fleet.clock import FleetClock
from llumnix.instances.condition.standstill import Motion
from llumnix.instances.condition.trouble import Trouble
from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import Identity, Instance, InstanceKind
from llumnix.instances.plugged import PluggedLink
from llumnix.instances.table import InstanceTable
from migration.llumlet.fleet_messages import MigrationEvent, Report
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import FleetSnapshot, InstanceId, InstanceLoad, PriorityClass, RequestId

CLASSES = (PriorityClass("urgent", 500), PriorityClass("usual", 20), PriorityClass("idle"))
IDENTITY = Identity(InstanceId("a"), InstanceKind.PLUGGED, control_host="127.0.0.1")


class Listener:
    """Counts reports."""

    def __init__(self) -> None:
        self.reports = 0

    def came_up(self, instance: Instance) -> None: ...

    def engine_seen(self, instance: Instance, motion: Motion) -> None: ...

    def went_down(self, instance: Instance, reason: str) -> None: ...

    def not_up(self, instance: Instance, trouble: Trouble) -> None:
        pass

    def heard(self, event: MigrationEvent) -> None: ...

    def reported(self, instance: Instance, new_request_ids: Sequence[RequestId] | None) -> None:
        self.reports += 1


@pytest.mark.parametrize(("default", "headroom"), [(0, 500), (1, 20), (2, 0)])
async def test_requests_past_the_frontend_count_as_of_the_default_class(
    default: int, headroom: int
) -> None:
    """An instance does not know the fleet's classes; a request without a tag is of no urgency."""
    instance, listener = Instance.at("http://127.0.0.1:1"), Listener()
    link = PluggedLink(instance, IDENTITY, b"s", FleetConfig(), listener, lambda: 3.0, default)
    instance.become(IDENTITY, link)
    load = InstanceLoad(
        *(InstanceId("a"), 1000, 100, 0, 0),
        running=(),
        waiting=(0, 0, 4),
        unclassed_running=2,
        unclassed_waiting=1,
    )
    link._on_report(Report(load, ()))

    table = InstanceTable(len(CLASSES), FleetClock(1.0).now_s)
    table.add(instance)
    snapshot = table.snapshot(table.alive())
    expected_waiting = [0, 0, 4]
    expected_waiting[default] += 1
    assert listener.reports == 1
    assert snapshot.class_running[0].tolist() == [2 * (index == default) for index in range(3)]
    assert snapshot.class_waiting[0].tolist() == expected_waiting
    scheduler = GlobalScheduler(SchedulerConfig(CLASSES, CLASSES[default].name))
    assert scheduler.freeness(snapshot).tolist() == [(1000 - 100 - headroom) / 2]


def test_a_snapshot_has_no_room_for_requests_of_no_class() -> None:
    load = InstanceLoad(InstanceId("a"), 1, 0, 0, 0, (), (), unclassed_waiting=1)
    with pytest.raises(AssertionError):
        FleetSnapshot.of((load,), 0.0, 2)
