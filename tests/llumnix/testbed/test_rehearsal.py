"""What a rehearsal sends: the workload, brought forward."""

from hypothesis import given
from hypothesis import strategies as st

from llumnix.testbed.rehearsal import crowded
from simulator.workload.request import TraceRequest


@given(st.lists(st.floats(0.0, 60.0), max_size=30))
def test_requests_come_sooner_in_the_same_order_and_change_in_nothing_else(
    arrivals: list[float],
) -> None:
    requests = [TraceRequest(n, at_s, 10 + n, 5) for n, at_s in enumerate(sorted(arrivals))]
    early = crowded(requests)
    assert [one.prompt_tokens for one in early] == [one.prompt_tokens for one in requests]
    times = [one.arrival_s for one in early]
    assert times == sorted(times)
    assert all(0.0 <= now <= was.arrival_s for now, was in zip(times, requests, strict=True))


def test_requests_come_twice_as_fast_at_first_and_then_as_in_the_run() -> None:
    early = crowded([TraceRequest(n, n / 2, 10, 5) for n in range(100)])
    assert early[20].arrival_s == 5.0
    assert early[41].arrival_s - early[31].arrival_s == 5.0
