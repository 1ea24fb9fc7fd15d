"""Without a scheduler a request goes to the able instance with the fewest requests of ours."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llumnix.fleet.placement import PlacementRequest
from llumnix.instances.instance import Identity, Instance, InstanceKind
from llumnix.scheduler_link.front.stopgap import least_in_flight
from policies.types import DispatchRequest, InstanceId, RequestId

NAMES = [InstanceId(each) for each in "abcd"]
some = st.frozensets(st.sampled_from(NAMES))


def _instance(name: InstanceId, model: str, *, plugged: bool) -> Instance:
    instance = Instance.at(f"http://{name}:1")
    kind = InstanceKind.PLUGGED if plugged else InstanceKind.UNTOUCHED
    link: Any = object()
    instance.become(Identity(name, kind, ({"id": model},)), link)
    return instance


@given(
    st.lists(st.tuples(st.sampled_from("mn"), st.booleans()), min_size=4, max_size=4),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    some,
    some,
    st.booleans(),
)
def test_the_fewest_among_the_able_and_those_that_failed_it_last(
    kinds: list[tuple[str, bool]],
    counts: list[int],
    avoided: frozenset[InstanceId],
    barred: frozenset[InstanceId],
    plugged_only: bool,
) -> None:
    fleet = [
        _instance(name, model, plugged=plugged)
        for name, (model, plugged) in zip(NAMES, kinds, strict=True)
    ]
    count = dict(zip(NAMES, counts, strict=True))
    wanted = DispatchRequest(RequestId("r"), 0, 1, 0.0, model="m")
    ask = PlacementRequest(wanted, avoided, barred, plugged_only=plugged_only)
    chosen = least_in_flight(ask, fleet, lambda name: count[name])

    able = {
        name
        for name, (model, plugged) in zip(NAMES, kinds, strict=True)
        if model == "m" and name not in barred and (plugged or not plugged_only)
    }
    if chosen is None:
        assert not able
        return
    assert chosen.id in able
    better = able - avoided
    if better:
        assert chosen.id in better
    assert count[chosen.id] == min(count[each] for each in better or able)
