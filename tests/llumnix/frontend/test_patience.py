"""How long streams wait for bytes: learned from what was observed, and what follows."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.patience import Patience, Quiet, Verdict
from llumnix.instances.condition.standstill import Motion
from policies.types import RequestId
from tests.llumnix.frontend.splicing.chunks import full_text, text_of
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS, Script

R = RequestId("r")


def quiet(silent_s: float, *, flows: bool = False, elsewhere: bool = True) -> Quiet:
    return Quiet(silent_s, usual_s=3.0, ceiling_s=300.0, flows=flows, elsewhere=elsewhere)


@pytest.mark.parametrize(
    ("silent_s", "flows", "elsewhere", "verdict"),
    [
        (2.9, False, True, Verdict.WAIT),
        (3.0, False, True, Verdict.MOVE),
        (3.0, True, True, Verdict.WAIT),
        (30.0, True, True, Verdict.MOVE),
        (59.0, False, False, Verdict.WAIT),
        (60.0, False, False, Verdict.GIVE_UP),
        (299.0, True, False, Verdict.WAIT),
        (300.0, True, False, Verdict.GIVE_UP),
    ],
)
def test_what_follows_a_silence(
    silent_s: float, flows: bool, elsewhere: bool, verdict: Verdict
) -> None:
    """Silent as a whole: soon. At work for others: much later. Nobody else: as long as can be."""
    assert Patience().judge(R, quiet(silent_s, flows=flows, elsewhere=elsewhere)) is verdict


def test_few_streams_leave_an_instance_that_works() -> None:
    """A fleet without room would only be loaded more; a dead one is left by all."""
    patience = Patience()
    late = quiet(40.0, flows=True)
    verdicts = [patience.judge(RequestId(f"r{n}"), late) for n in range(9)]
    assert verdicts == [Verdict.MOVE] * 4 + [Verdict.WAIT] * 5
    patience.settled(RequestId("r0"))

    assert patience.judge(RequestId("r9"), late) is Verdict.MOVE
    assert patience.judge(RequestId("r10"), quiet(40.0)) is Verdict.MOVE


def test_first_bytes_are_waited_for_as_long_as_they_usually_take() -> None:
    patience = Patience()
    assert patience.first_byte_s(0, 10, 3.0) == pytest.approx(3.01)
    assert patience.first_byte_s(0, 20_000, 3.0) == pytest.approx(23.0)
    for _ in range(50):
        patience.saw_first_byte(0, 1000, 5.0)

    assert patience.first_byte_s(0, 1000, 3.0) == 15.0
    assert patience.first_byte_s(0, 4000, 3.0) == 15.0
    assert patience.first_byte_s(0, 10, 3.0) == pytest.approx(3.01)
    assert patience.first_byte_s(1, 1000, 3.0) == pytest.approx(4.0)


def test_pauses_are_waited_for_by_a_streams_own_pace_and_its_class() -> None:
    patience = Patience()
    assert patience.gap_s(0, 0.05, 3.0) == 3.0
    assert patience.gap_s(0, 2.0, 3.0) == 20.0
    patience.saw_gap(0, 1.0)

    assert patience.gap_s(0, 0.0, 3.0) == 10.0
    assert patience.gap_s(1, 0.0, 3.0) == 3.0


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1 << 20), st.floats(0, 300)), max_size=60),
    st.integers(0, 2),
    st.integers(0, 1 << 20),
    st.floats(0.1, 10.0),
)
def test_patience_never_falls_below_its_floor_and_grows_with_the_prompt(
    seen: list[tuple[int, int, float]], index: int, tokens: int, floor_s: float
) -> None:
    patience = Patience()
    for each in seen:
        patience.saw_first_byte(*each)
    short_s = patience.first_byte_s(index, tokens, floor_s)

    assert short_s >= floor_s
    assert patience.first_byte_s(index, tokens + 1000, floor_s) >= short_s


@pytest.mark.parametrize(
    "script", [Script(silent=True), Script(0, then="hang"), Script(4, then="hang")]
)
@pytest.mark.parametrize("chat", [False, True])
async def test_a_silent_stream_goes_on_elsewhere(script: Script, chat: bool) -> None:
    """No head, no token, or no further one: all in the time of the floor, and all exact."""
    async with Stage(2, patience_s=0.2) as stage:
        stage.stubs[0].scripts.append(script)
        began_s = time.monotonic()
        got = await stage.stream(chat=chat)

        assert text_of(got) == full_text(TOKENS)
        assert got.count(b'"role"') == chat
        assert time.monotonic() - began_s < 20.0
        await asyncio.wait_for(stage.stubs[0].cancelled.wait(), 20.0)
        assert len(stage.stubs[1].heard) == 1


async def test_a_stream_is_waited_for_where_its_engine_is_seen_to_step() -> None:
    """Its request is queued, preempted or in prefill: others gain nothing by its leaving."""
    go_on = asyncio.Event()

    async def pause() -> None:
        await go_on.wait()

    async with Stage(2, patience_s=0.2) as stage:
        stage.stubs[0].scripts.append(Script(pause=pause))
        reading = asyncio.create_task(stage.stream())
        await until(lambda: stage.stubs[0].heard)
        a = stage.instance("a")
        for _ in range(10):
            stage.fleet.engine_seen(a, Motion(moved=True))
            await asyncio.sleep(0.05)
        go_on.set()

        assert text_of(await reading) == full_text(TOKENS)
        assert not stage.stubs[1].heard


async def test_the_only_instance_is_waited_for() -> None:
    go_on = asyncio.Event()

    async def pause() -> None:
        await go_on.wait()

    async with Stage(1, patience_s=0.05) as stage:
        stage.stubs[0].scripts.append(Script(pause=pause))
        reading = asyncio.create_task(stage.stream())
        await until(lambda: stage.stubs[0].heard)
        await asyncio.sleep(0.3)
        go_on.set()

        assert text_of(await reading) == full_text(TOKENS)
        assert len(stage.stubs[0].heard) == 1


async def test_an_instance_that_is_silent_as_a_whole_gets_nothing_new() -> None:
    """One request has found out; the others need not."""
    async with Stage(2, patience_s=0.2) as stage:
        stage.stubs[0].scripts.extend(Script(silent=True) for _ in range(9))
        for _ in range(6):
            assert text_of(await stage.stream()) == full_text(TOKENS)

        assert len(stage.stubs[0].heard) == 1
        assert stage.instance("a").fitness.breaker.reason
