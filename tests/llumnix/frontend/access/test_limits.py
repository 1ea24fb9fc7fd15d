"""Laws of the limits: no more gets in than a minute's worth and what has refilled since."""

from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.access.limits import Allowance, Dimension, Exceeded, Limits

WAITS = st.lists(
    st.tuples(st.floats(0.0, 30.0), st.integers(1, 40), st.integers(0, 60), st.integers(0, 90)),
    max_size=60,
)


@given(WAITS)
def test_requests_never_outrun_their_rate(steps: list[tuple[float, int, int, int]]) -> None:
    allowance, now_s, admitted = Allowance(Limits(requests_per_minute=12), 0.0), 0.0, 0
    for pause_s, *_ in steps:
        now_s += pause_s
        admitted += allowance.enter(now_s) is None
        assert admitted <= 12 + 12 * now_s / 60 + 1e-6


@given(WAITS)
def test_tokens_used_never_outrun_their_rate_by_more_than_one_settlement(
    steps: list[tuple[float, int, int, int]],
) -> None:
    """What a request uses beyond its reservation is a debt, which stops the next ones."""
    allowance, now_s, used, most = Allowance(Limits(tokens_per_minute=100), 0.0), 0.0, 0, 0
    for pause_s, prompt, announced, produced in steps:
        now_s += pause_s
        reserved = allowance.reserve(prompt, announced, now_s)
        if isinstance(reserved, Exceeded):
            continue
        allowance.settle(reserved, prompt + produced, now_s)
        used += prompt + produced
        most = max(most, prompt + produced)
        assert used <= 100 + 100 * now_s / 60 + most + 1e-6


@given(st.integers(1, 200), st.integers(0, 300))
def test_after_the_wait_that_is_told_the_request_gets_in(prompt: int, output: int) -> None:
    """Retry-After is a promise, as far as the key's other requests leave it one."""
    allowance = Allowance(Limits(tokens_per_minute=100), 0.0)
    allowance.settle(0, 150, 0.0)  # in debt
    first = allowance.reserve(prompt, output, 0.0)
    assert isinstance(first, Exceeded)
    if first.wait_s is None:
        assert prompt > 100
        return
    assert isinstance(allowance.reserve(prompt, output, first.wait_s + 1e-6), int)


def test_what_was_reserved_and_not_used_is_given_back() -> None:
    allowance = Allowance(Limits(tokens_per_minute=100), 0.0)
    reserved = allowance.reserve(10, 90, 0.0)
    assert reserved == 100
    assert isinstance(allowance.reserve(1, 0, 0.0), Exceeded)
    allowance.settle(100, 12, 0.0)
    assert allowance.left(0.0)[Dimension.TOKENS].remaining == 88


def test_output_that_a_client_merely_allows_does_not_shut_it_out() -> None:
    """A generous max_tokens is usual; a full bucket lets it in."""
    allowance = Allowance(Limits(tokens_per_minute=100), 0.0)
    assert allowance.reserve(10, 100_000, 0.0) == 100


def test_requests_at_once_are_counted_in_and_out() -> None:
    allowance = Allowance(Limits(concurrent_requests=2), 0.0)
    assert allowance.enter(0.0) is None
    assert allowance.enter(0.0) is None
    refused = allowance.enter(0.0)
    assert isinstance(refused, Exceeded)
    assert refused.dimension is Dimension.CONCURRENCY
    allowance.leave()
    assert allowance.enter(0.0) is None


def test_a_clock_that_stands_or_goes_back_refills_nothing() -> None:
    allowance = Allowance(Limits(requests_per_minute=1), 100.0)
    assert allowance.enter(100.0) is None
    assert isinstance(allowance.enter(100.0), Exceeded)
    assert isinstance(allowance.enter(50.0), Exceeded)


def test_unchanged_limits_keep_what_was_used() -> None:
    """Else a reload would hand everyone a fresh minute."""
    allowance = Allowance(Limits(requests_per_minute=1, tokens_per_minute=10), 0.0)
    assert allowance.enter(0.0) is None
    allowance.changed(Limits(requests_per_minute=1, tokens_per_minute=50), 0.0)
    assert isinstance(allowance.enter(0.0), Exceeded)
    assert allowance.left(0.0)[Dimension.TOKENS].remaining == 50
