"""When a peer is silent for too long, and when an engine stands still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.instances.condition.silence import Silence
from llumnix.instances.condition.standstill import Motion, Standstill


def watched(silence: Silence, until_s: float, start_s: float) -> float | None:
    """Check at every tick; return when the silence became too long."""
    now_s = start_s
    while now_s < until_s:
        now_s += silence.tick_s
        if silence.check(now_s):
            return now_s
    return None


def test_silence_counts_from_the_last_report() -> None:
    silence = Silence(2.0, 0.0)
    for tenth in range(1, 30):
        silence.check(tenth / 10)
        silence.heard(tenth / 10)

    found_s = watched(silence, 60.0, 2.9)
    assert found_s is not None
    assert found_s - 2.9 == pytest.approx(2.0, abs=0.26)


def test_our_own_delay_is_not_its_silence() -> None:
    """The loop stood still for a minute; what was sent meanwhile is about to be read."""
    silence = Silence(2.0, 0.0)
    silence.heard(0.1)
    silence.check(0.2)

    assert not silence.check(60.0)
    assert watched(silence, 70.0, 60.0) == pytest.approx(61.5, abs=0.5)


def test_one_that_usually_pauses_long_is_waited_for() -> None:
    silence = Silence(2.0, 0.0)
    now_s = 0.0
    for _ in range(5):
        for _ in range(4):
            now_s += 0.25
            assert not silence.check(now_s)
        silence.heard(now_s)

    assert 3.0 < silence.limit_s(now_s) <= 10.0
    assert silence.limit_s(now_s + 600.0) == 2.0


@given(st.lists(st.floats(0.0, 100.0), max_size=50))
def test_whatever_came_before_a_dead_peer_is_found_dead_within_five_limits(
    pauses: list[float],
) -> None:
    silence, now_s = Silence(2.0, 0.0), 0.0
    for pause_s in pauses:
        now_s += pause_s
        silence.check(now_s)
        silence.heard(now_s)

    assert watched(silence, now_s + 10.5, now_s) is not None


STILL, MOVED, IDLE = Motion(), Motion(moved=True), Motion(idle=True)


def test_an_engine_that_runs_requests_without_a_step_stands_still() -> None:
    engine = Standstill(3.0)
    seen = [engine.observe(n, running=True, now_s=n / 10) for n in range(20)]
    assert seen == [STILL, *[MOVED] * 19]

    seen = [engine.observe(19, running=True, now_s=2.0 + n / 10) for n in range(40)]
    assert seen[:29] == [STILL] * 29
    assert [each.still_s for each in seen[29:]] == pytest.approx([3.0 + n / 10 for n in range(11)])
    assert engine.observe(19, running=False, now_s=6.0) == IDLE
    assert engine.observe(20, running=True, now_s=6.1) == MOVED


def test_an_idle_engine_may_stand_still() -> None:
    engine = Standstill(3.0)
    for second in range(100):
        assert engine.observe(7, running=False, now_s=float(second)) == IDLE
    assert engine.observe(7, running=True, now_s=100.0) == STILL
    assert engine.observe(7, running=True, now_s=102.0) == STILL


def test_slow_steps_are_no_standstill() -> None:
    """A machine whose steps take two seconds is slow, and may once take six."""
    engine = Standstill(3.0)
    for step in range(10):
        assert not engine.observe(step, running=True, now_s=2.0 * step).still_s

    assert not engine.observe(9, running=True, now_s=24.0).still_s
    assert engine.observe(9, running=True, now_s=27.0).still_s


def test_a_first_step_and_a_long_prefill_may_take_longer() -> None:
    engine = Standstill(3.0)
    engine.observe(0, running=True, now_s=0.0)
    assert not engine.observe(0, running=True, now_s=8.9).still_s
    assert engine.observe(0, running=True, now_s=9.1).still_s

    engine = Standstill(3.0)
    for step in range(10):
        engine.observe(step, running=True, now_s=step / 10)
    assert not engine.observe(9, running=True, now_s=4.4, prefill_tokens=1 << 20).still_s
    assert engine.observe(9, running=True, now_s=4.4).still_s
