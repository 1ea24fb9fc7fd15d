"""A circuit breaker: whatever happens to it, it lets somebody through before long."""

from hypothesis import given
from hypothesis import strategies as st

from llumnix.instances.condition.breaker import Breaker, BreakerLimits, BreakerState
from llumnix.instances.condition.fitness import Fitness

LIMITS = BreakerLimits(failures=3, window=10, open_s=5.0)


def opened() -> Breaker:
    breaker = Breaker(LIMITS)
    assert [breaker.failed(0.0, "no") for _ in range(3)] == [False, False, True]
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = opened()

    assert breaker.state(0.0) is BreakerState.OPEN
    assert not breaker.admits(4.9)


def test_a_success_between_them_does_not_let_it_open() -> None:
    breaker = Breaker(LIMITS)
    for _ in range(4):
        breaker.failed(0.0, "no")
        breaker.failed(0.0, "no")
        breaker.succeeded(0.0)
        breaker.succeeded(0.0)
        breaker.succeeded(0.0)

    assert breaker.state(0.0) is BreakerState.CLOSED


def test_half_of_many_failing_opens_it() -> None:
    breaker = Breaker(BreakerLimits(failures=100, window=10))
    changes = []
    for _ in range(5):
        breaker.succeeded(0.0)
        changes.append(breaker.failed(0.0, "no"))

    assert changes == [False, False, False, False, True]


def test_then_one_request_probes_it() -> None:
    breaker = opened()
    assert breaker.admits(5.0)
    breaker.sent(5.0)

    assert not breaker.admits(5.1)
    assert breaker.succeeded(5.2)
    assert breaker.admits(5.3)


def test_a_failed_probe_opens_it_for_longer() -> None:
    breaker = opened()
    breaker.sent(5.0)
    assert breaker.failed(5.1, "still no")

    assert not breaker.admits(14.9)
    assert breaker.admits(15.2)


def test_a_probe_that_never_ends_does_not_block_for_ever() -> None:
    breaker = opened()
    breaker.sent(5.0)

    assert breaker.admits(10.1)


def test_zero_failures_means_never() -> None:
    breaker = Breaker(BreakerLimits(failures=0))
    for _ in range(100):
        breaker.failed(0.0, "no")

    assert breaker.admits(0.0)
    assert not breaker.trip(0.0, "silent")


@given(
    st.lists(
        st.tuples(st.sampled_from(["ok", "no", "sent", "trip"]), st.floats(0.0, 30.0)), max_size=60
    )
)
def test_whatever_happens_someone_is_let_through_within_the_longest_wait(
    history: list[tuple[str, float]],
) -> None:
    breaker, now_s = Breaker(LIMITS), 0.0
    for what, pause_s in history:
        now_s += pause_s
        before = breaker.state(now_s)
        match what:
            case "ok":
                closes = breaker.succeeded(now_s)
                assert breaker.state(now_s) is BreakerState.CLOSED
                assert closes == (before is not BreakerState.CLOSED)
            case "no":
                opens = breaker.failed(now_s, "no")
                assert opens == (
                    before is not BreakerState.OPEN and breaker.state(now_s) is BreakerState.OPEN
                )
            case "sent":
                breaker.sent(now_s)
                assert breaker.state(now_s) is before
            case _:
                breaker.trip(now_s, "silent")
                assert breaker.state(now_s) is BreakerState.OPEN

    assert breaker.admits(now_s + 2 * 64 * LIMITS.open_s)


def test_a_pause_asked_for_is_bounded() -> None:
    fitness = Fitness()
    fitness.rest(3600.0, 0.0)

    assert fitness.objection(1.0)
    assert not fitness.objection(31.0)
