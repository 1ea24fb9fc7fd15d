"""Instances that hang rather than die: no socket closes, yet nobody waits for them for long."""

import asyncio

import pytest

from llumnix.frontend.relay import leg_watch
from llumnix.instances.instance import InstanceState
from tests.llumnix.frontend.splicing.chunks import full_text, text_of
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS, Script


async def test_a_silent_stream_of_an_instance_found_dead_is_carried_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its link is lost and it sends nothing: the idle timeout need not pass."""
    monkeypatch.setattr(leg_watch, "_SILENT_S", 0.0)
    async with Stage(2) as stage:
        stage.stubs[0].scripts.append(Script(4, then="hang"))
        reading = asyncio.create_task(stage.stream())
        await until(lambda: [r.tokens() for r in stage.fleet.requests.active.values()] == [4])
        stage.links["a"].give_up("no report")

        assert text_of(await reading) == full_text(TOKENS)
        assert len(stage.stubs[1].heard) == 1


async def test_a_stream_that_still_flows_is_left_alone() -> None:
    """Losing the control connection alone is no reason to cut what is served all the same."""
    async with Stage(2) as stage:
        written = 0

        async def lose() -> None:
            nonlocal written
            written += 1
            if written == TOKENS // 2:
                await until(lambda: stage.fleet.tally.streams_open)
                stage.links["a"].give_up("hiccup")
                await until(lambda: stage.instance("a").state is InstanceState.DOWN)

        stage.stubs[0].scripts.append(Script(pause=lose))

        assert text_of(await stage.stream()) == full_text(TOKENS)
        assert written >= TOKENS // 2
        assert not stage.stubs[1].heard


@pytest.mark.parametrize("streams", [False, True])
async def test_waiting_for_the_first_byte_ends_with_the_instance(streams: bool) -> None:
    async with Stage(2) as stage:
        stage.stubs[0].scripts.append(Script(silent=True))

        async def status() -> int:
            async with stage.post(stream=streams) as response:
                code: int = response.status
                return code

        asking = asyncio.create_task(status())
        await until(lambda: stage.stubs[0].heard)
        stage.links["a"].give_up("no report")

        assert await asking == 200
        assert len(stage.stubs[1].heard) == 1


async def test_requests_in_equal_requests_accounted_for() -> None:
    """INV-8: arrived = finished + failed + rejected + cancelled + active, at every look."""
    async with Stage(2, max_attempts=2) as stage:
        tally = stage.fleet.tally

        def balanced() -> bool:
            return tally.arrived == sum(tally.outcomes.values()) + len(stage.fleet.requests.active)

        scripts = [
            Script(),
            Script(status=400),
            Script(status=500),
            Script(3, then="die"),
            Script(3, then="redirect", migration_id="unknown"),
            Script(0, then="redirect", migration_id="requeue"),
        ]
        for stub in stage.stubs:
            stub.scripts.extend(scripts)

        async def one() -> None:
            async with stage.post() as response:
                await response.read()
            assert balanced()

        await asyncio.gather(*(one() for _ in range(12)))
        async with stage.session.post("/v1/completions", data=b"{") as response:
            assert response.status == 400

        assert balanced()
        assert tally.arrived == 13
        assert not stage.fleet.requests.active
        assert len(stage.brain.ledger) == 0
