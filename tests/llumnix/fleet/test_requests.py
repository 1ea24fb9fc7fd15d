"""The table of requests knows where each is, however it came there."""

import time

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llumnix.fleet.requests import ActiveRequest, RequestTable
from policies.types import InstanceId, RequestId
from tests.policies.fleets import law

PLACES = [InstanceId(name) for name in "abc"]


class Requests(RuleBasedStateMachine):
    """They open, go somewhere, leave, and end."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RequestTable()
        self.ended: list[ActiveRequest] = []
        self.opened = 0

    @rule(place=st.sampled_from([None, *PLACES]))
    def open(self, place: InstanceId | None) -> None:
        self.opened += 1
        request = ActiveRequest(RequestId(f"r{self.opened}"), "normal", 0.0)
        request.instance_id = place
        self.table.open(request)

    def pick(self, number: int) -> ActiveRequest | None:
        active = list(self.table.active.values())
        return active[number % len(active)] if active else None

    @rule(number=st.integers(0, 9), place=st.sampled_from(PLACES))
    def go(self, number: int, place: InstanceId) -> None:
        if (request := self.pick(number)) is not None:
            request.goes_to(place)
            request.heard_at_s = lambda at_s=float(number): at_s  # type: ignore[misc]

    @rule(number=st.integers(0, 9))
    def leave(self, number: int) -> None:
        if (request := self.pick(number)) is not None:
            request.instance_id = None

    @rule(number=st.integers(0, 9))
    def close(self, number: int) -> None:
        if (request := self.pick(number)) is not None:
            self.table.close(request.request_id)
            self.ended.append(request)

    @rule(number=st.integers(0, 9), place=st.sampled_from(PLACES))
    def stir(self, number: int, place: InstanceId) -> None:
        """What has ended moves nothing any more."""
        if self.ended:
            self.ended[number % len(self.ended)].goes_to(place)

    @invariant()
    def each_is_found_where_it_is(self) -> None:
        for place in PLACES:
            there = {each for each in self.table.active.values() if each.instance_id == place}
            assert set(self.table.at(place)) == there
            assert self.table.count_at(place) == len(there)
            flowed = [each.heard_at_s() for each in there]
            assert self.table.flowed_at_s(place) == max(flowed, default=0.0)

    @invariant()
    def those_just_sent_are_known(self) -> None:
        since_s = time.monotonic() - 3.0
        active = self.table.active.values()
        assert set(self.table.placed_since(since_s)) >= {
            each for each in active if each.placed_at_s >= since_s
        }


TestRequests = Requests.TestCase
TestRequests.settings = law
