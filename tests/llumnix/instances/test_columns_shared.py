"""Snapshots that share columns decide as those that do not: what is kept is right."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llumnix.instances.columns import LoadColumns
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import DispatchRequest, FleetSnapshot, InstanceLoad, RequestId
from tests.policies.fleets import load_lists
from tests.policies.test_small_fleets import shown


@given(load_lists(min_size=1), st.data())
def test_decisions_do_not_depend_on_what_is_kept_between_reports(
    first: list[InstanceLoad], data: st.DataObject
) -> None:
    config = SchedulerConfig()
    kept, afresh = GlobalScheduler(config), GlobalScheduler(config)
    classes = len(config.classes)
    loads = [replace(each, reported_at_s=0.0) for each in first]
    table = LoadColumns(classes)
    table.resize([each.instance_id for each in loads])
    for row, load in enumerate(loads):
        table.put(row, load)
    for number in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            row = data.draw(st.integers(0, len(loads) - 1))
            news = replace(data.draw(st.sampled_from(first)), instance_id=loads[row].instance_id)
            loads[row] = replace(news, reported_at_s=0.0)
            table.put(row, loads[row])
        tokens = data.draw(st.integers(1, 5_000))
        request = DispatchRequest(RequestId(f"r{number}"), 0, tokens, 0.0)
        shared = kept.dispatch(request, table.snapshot(None, 1.0), 1.0)
        alone = afresh.dispatch(request, FleetSnapshot.of(loads, 1.0, classes), 1.0)
        assert shown(shared) == shown(alone)
