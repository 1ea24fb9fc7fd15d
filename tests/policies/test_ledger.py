"""The in-flight ledger adds up, and every entry leaves."""

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policies.ledger import InFlightLedger
from policies.types import InstanceId, RequestId
from tests.policies.fleets import fleet, law, load

A, B = InstanceId("a"), InstanceId("b")
ModelEntry = tuple[InstanceId, int, float]
IDS = [RequestId(f"r{number}") for number in range(6)]


def columns(ledger: InFlightLedger) -> tuple[list[int], list[int]]:
    filled = ledger.fill_in(fleet(load("a"), load("b")))
    return filled.in_flight_tokens.tolist(), filled.in_flight_requests.tolist()


class Bookkeeping(RuleBasedStateMachine):
    """The columns always equal the sums over a plain dictionary kept beside the ledger."""

    requests = st.sampled_from(IDS)
    instances = st.sampled_from([A, B])

    def __init__(self) -> None:
        super().__init__()
        self.ledger = InFlightLedger(timeout_s=10.0)
        self.model: dict[RequestId, ModelEntry] = {}
        self.now_s = 0.0

    @rule(request=requests, instance=instances, tokens=st.integers(1, 900))
    def enter(self, request: RequestId, instance: InstanceId, tokens: int) -> None:
        self.ledger.enter(request, instance, tokens, self.now_s)
        self.model[request] = (instance, tokens, self.now_s)

    @rule(seen=st.lists(requests), instance=instances)
    def confirm(self, seen: list[RequestId], instance: InstanceId) -> None:
        self.ledger.confirm(instance, seen)
        self._keep(lambda key, one: key not in seen or one[0] != instance)

    @rule(instance=instances, ago_s=st.floats(0, 5))
    def confirm_until(self, instance: InstanceId, ago_s: float) -> None:
        self.ledger.confirm_until(instance, self.now_s - ago_s)
        self._keep(lambda _, one: one[0] != instance or one[2] > self.now_s - ago_s)

    @rule(request=requests)
    def forget(self, request: RequestId) -> None:
        self.ledger.forget(request)
        self.model.pop(request, None)

    @rule(instance=instances)
    def forget_instance(self, instance: InstanceId) -> None:
        self.ledger.forget_instance(instance)
        self._keep(lambda _, one: one[0] != instance)

    @rule(passed_s=st.floats(0, 8))
    def expire(self, passed_s: float) -> None:
        self.now_s += passed_s
        before = len(self.model)
        self._keep(lambda _, one: self.now_s - one[2] <= 10.0)
        assert self.ledger.expire(self.now_s) == before - len(self.model)

    @invariant()
    def adds_up(self) -> None:
        here = [[one for one in self.model.values() if one[0] == name] for name in (A, B)]
        expected = [sum(one[1] for one in some) for some in here], [len(some) for some in here]
        assert columns(self.ledger) == expected
        assert len(self.ledger) == len(self.model)

    def _keep(self, kept: Callable[[RequestId, ModelEntry], bool]) -> None:
        self.model = {key: one for key, one in self.model.items() if kept(key, one)}


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = law


def test_a_report_of_another_instance_confirms_nothing() -> None:
    """A request dispatched anew is not confirmed by a late report of its former instance."""
    ledger = InFlightLedger(10.0)
    ledger.enter(IDS[0], A, 100, 0.0)
    ledger.enter(IDS[0], B, 100, 1.0)
    ledger.confirm(A, [IDS[0]])

    assert columns(ledger) == ([0, 100], [0, 1])


def test_the_raw_snapshot_is_left_as_it_was() -> None:
    ledger = InFlightLedger(10.0)
    ledger.enter(IDS[0], A, 100, 0.0)
    snapshot = fleet(load("a"))
    ledger.fill_in(snapshot)

    assert snapshot.in_flight_tokens.tolist() == [0]
