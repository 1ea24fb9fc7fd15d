"""Who is too slow: a law for each, over any history of a connection."""

from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.http.patience import Late, Patience, Progress, Seen

PATIENCE = Patience(
    head_timeout_s=10.0,
    head_limit_bytes=1000,
    body_timeout_s=20.0,
    body_rate_bytes_per_s=100.0,
    stall_timeout_s=30.0,
)
IDLE = Seen(False, True, True, 0, 0)
IN_BODY = Seen(True, False, True, 0, 0)


def blocked(acknowledged: int) -> Seen:
    return Seen(True, True, True, 5000, acknowledged)


@given(st.lists(st.floats(0.1, 3.0), max_size=60), st.booleans())
def test_a_head_has_its_time_however_often_another_byte_comes(
    pauses_s: list[float], drips: bool
) -> None:
    progress, now_s = Progress(PATIENCE, 0.0), 0.0
    for pause_s in pauses_s:
        now_s += pause_s
        if drips:
            assert progress.received(1, now_s, in_request=False)
        assert progress.late(IDLE, now_s) is (Late.HEAD if now_s > 10.0 else None)


@given(st.lists(st.tuples(st.floats(0.1, 5.0), st.integers(0, 2000)), max_size=80))
def test_a_body_is_cut_exactly_when_it_falls_behind_its_pace(
    arrivals: list[tuple[float, int]],
) -> None:
    progress, now_s, received = Progress(PATIENCE, 0.0), 0.0, 0
    progress.began(0.0)
    for pause_s, size in arrivals:
        now_s += pause_s
        progress.received(size, now_s, in_request=True)
        received += size
        behind = now_s > 20.0 + received / 100.0
        assert progress.late(IN_BODY, now_s) is (Late.BODY if behind else None)
        if behind:
            return


@given(st.lists(st.floats(0.5, 5.0), max_size=100))
def test_the_time_in_which_we_do_not_read_is_not_the_clients(pauses_s: list[float]) -> None:
    progress, now_s = Progress(PATIENCE, 0.0), 0.0
    progress.began(0.0)
    for pause_s in pauses_s:
        now_s += pause_s
        assert progress.late(Seen(True, False, False, 0, 0), now_s) is None


@given(st.lists(st.tuples(st.floats(0.5, 5.0), st.booleans()), min_size=1, max_size=100))
def test_a_reader_is_cut_only_after_taking_nothing_for_the_whole_time(
    looks: list[tuple[float, bool]],
) -> None:
    """However slowly: who takes a byte now and then is served."""
    progress, now_s, taken, since_s = Progress(PATIENCE, 0.0), 0.0, 0, 0.0
    for number, (pause_s, takes) in enumerate(looks):
        now_s += pause_s
        taken += takes
        if takes or not number:
            since_s = now_s
        expected = Late.READING if now_s - since_s > 30.0 else None
        assert progress.late(blocked(taken), now_s) is expected
        if expected:
            return


def test_idle_between_requests_is_no_lateness_here() -> None:
    """Keep-alive has a timeout of its own."""
    progress = Progress(PATIENCE, 0.0)
    assert progress.received(50, 1.0, in_request=False)
    progress.began(1.0)
    assert progress.late(IDLE, 1000.0) is None
    assert progress.received(1, 1001.0, in_request=False)
    assert progress.head_begun
    assert progress.late(IDLE, 1012.0) is Late.HEAD


def test_a_head_that_grows_without_end_is_noticed() -> None:
    progress = Progress(PATIENCE, 0.0)
    assert progress.received(1000, 0.0, in_request=False)
    assert not progress.received(1, 0.0, in_request=False)
