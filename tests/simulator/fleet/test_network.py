"""Links: bytes take time, and whoever sends at once shares."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import InstanceId
from simulator.events import NS_PER_S, EventQueue, Priority
from simulator.fleet.network import Network

A, B, C, D = (InstanceId(name) for name in "abcd")


def network(bytes_per_s: int = 1000, latency_ns: int = 0) -> tuple[EventQueue, Network]:
    events = EventQueue()
    return events, Network(events, bytes_per_s, latency_ns)


def run_out(events: EventQueue) -> None:
    while events.advance():
        pass


def test_a_flow_alone_has_all_the_bandwidth() -> None:
    """500 bytes at 1,000 bytes/s are there after half a second, and the latency."""
    events, links = network(latency_ns=7)
    ends: list[int] = []
    links.send(A, B, 500, lambda: ends.append(events.now_ns))
    run_out(events)
    assert ends == [NS_PER_S // 2 + 7]


def test_two_flows_out_of_one_port_share_it() -> None:
    """The second begins halfway through the first: each has half of the port from then on."""
    events, links = network()
    ends: dict[str, int] = {}

    def begin(name: str, to: InstanceId) -> None:
        links.send(A, to, 1000, lambda: ends.update({name: events.now_ns}))

    begin("first", B)
    events.at(NS_PER_S // 2, Priority.STEP, lambda: begin("second", C))
    run_out(events)
    # First: 500 bytes alone, 500 at half speed. Second: 500 at half speed, 500 alone.
    assert ends == {"first": NS_PER_S * 3 // 2, "second": NS_PER_S * 2}


def test_flows_between_different_pairs_do_not_meet() -> None:
    """Ports are full duplex, and every instance has its own."""
    events, links = network()
    ends: list[int] = []
    for source, destination in ((A, B), (B, A), (C, D)):
        links.send(source, destination, 1000, lambda: ends.append(events.now_ns))
    run_out(events)
    assert ends == [NS_PER_S] * 3


def test_a_flow_that_is_cut_never_arrives_and_frees_its_share() -> None:
    """Half a second shared, then 750 bytes alone."""
    events, links = network()
    ends: list[str] = []
    cut = links.send(A, B, 1000, lambda: ends.append("cut"))
    links.send(A, C, 1000, lambda: ends.append("whole"))
    events.at(NS_PER_S // 2, Priority.STEP, lambda: links.cut(cut))
    run_out(events)
    assert ends == ["whole"]
    assert events.now_ns == NS_PER_S // 2 + NS_PER_S * 3 // 4


@given(
    flows=st.lists(
        st.tuples(st.integers(0, 2 * NS_PER_S), st.integers(1, 5000)), min_size=1, max_size=8
    )
)
def test_a_shared_port_is_never_idle_and_never_faster_than_it_is(
    flows: list[tuple[int, int]],
) -> None:
    """All from one source: the last byte comes when a single queue of all bytes would be empty."""
    events, links = network(bytes_per_s=997)

    def begin(n_bytes: int) -> None:
        links.send(A, B, n_bytes, lambda: None)

    for at_ns, n_bytes in flows:
        events.at(at_ns, Priority.STEP, partial(begin, n_bytes))
    run_out(events)
    queue_ends_ns = 0.0
    for at_ns, n_bytes in sorted(flows):
        queue_ends_ns = max(queue_ends_ns, at_ns) + n_bytes * NS_PER_S / 997
    # A share is a whole number of bytes/s: of 997 among eight, seven are lost at worst.
    assert queue_ends_ns - 1 <= events.now_ns <= queue_ends_ns * (1 + 8 / 997) + 8 * NS_PER_S / 997


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="1 byte/s"):
        network(bytes_per_s=0)
