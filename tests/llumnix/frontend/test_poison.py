"""A request that crashes the engines it runs on, among many that do not."""

import asyncio
from typing import Any

import pytest

from tests.llumnix.frontend.mortal import POISON, MortalInstance
from tests.llumnix.frontend.splicing.chunks import full_text, text_of
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS, Script

DEADLY: dict[str, Any] = {"prompt": POISON}


def dead(stage: Stage) -> int:
    return sum(stub.dead for stub in stage.stubs if isinstance(stub, MortalInstance))


async def outcome(stage: Stage, body: dict[str, Any], *, stream: bool = True) -> tuple[int, bytes]:
    async with stage.post(body, stream=stream) as response:
        return response.status, await response.read()


async def beat() -> None:
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("plugged", [False, True])
async def test_a_poison_takes_down_two_servers_and_its_twin_none(
    stream: bool, plugged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log. Clients try again: the same body is known then."""
    async with Stage(6, engine=MortalInstance, plugged=plugged) as stage:
        status, body = await outcome(stage, DEADLY, stream=stream)
        assert status == 502
        assert b"took down" in body
        assert dead(stage) == 2
        again, _ = await outcome(stage, DEADLY, stream=stream)
        assert again == 502
        assert dead(stage) == 2
        fine, _ = await outcome(stage, {}, stream=stream)
        assert fine == 200
    named = [line for line in caplog.messages if line.startswith("request_poisonous")]
    assert len(named) == 1


@pytest.mark.parametrize("limit", [1, 3])
async def test_how_many_is_a_setting(limit: int) -> None:
    async with Stage(6, engine=MortalInstance) as stage:
        stage.fleet.health.suspects.limit = limit
        status, _ = await outcome(stage, DEADLY)

        assert status == 502
        assert dead(stage) == limit


@pytest.mark.parametrize("stream", [False, True])
async def test_all_innocents_survive_the_poison_among_them(stream: bool) -> None:
    """Beside it at both deaths, before or after their first token: carried on, and exact."""
    async with Stage(6, engine=MortalInstance, max_attempts=12) as stage:
        for stub in stage.stubs:
            stub.scripts.extend(Script(pause=beat) for _ in range(200))
        early = [asyncio.create_task(outcome(stage, {}, stream=stream)) for _ in range(30)]
        await asyncio.sleep(0.1)
        late = [asyncio.create_task(outcome(stage, {}, stream=stream)) for _ in range(30)]
        poison = asyncio.create_task(outcome(stage, DEADLY, stream=stream))
        last = [asyncio.create_task(outcome(stage, {}, stream=stream)) for _ in range(30)]
        async with asyncio.timeout(60.0):
            answers = await asyncio.gather(*early, *late, *last)
            status, _ = await poison

        assert status == 502
        assert dead(stage) <= 3
        assert [code for code, _ in answers] == [200] * 90
        if stream:
            assert {text_of(body) for _, body in answers} == {full_text(TOKENS)}


@pytest.mark.parametrize("tokens", [1, 5])
async def test_a_poison_that_kills_late_is_found_out_as_well(tokens: int) -> None:
    """It is carried on with what it has produced, and kills the next server with its first step."""
    async with Stage(6, engine=MortalInstance) as stage:
        for stub in stage.stubs:
            assert isinstance(stub, MortalInstance)
            stub.first = Script(tokens, then="leave")
        status, body = await outcome(stage, DEADLY)

        assert status == 200  # it had begun
        assert b"took down" in body
        assert dead(stage) == 2


async def test_two_deaths_of_other_causes_cost_no_stream() -> None:
    """Whoever is on its way and loses two servers in a row has not killed them."""
    async with Stage(4, engine=MortalInstance) as stage:
        for stub in stage.stubs:
            stub.scripts.extend(Script(60, pause=beat) for _ in range(200))
        streams = [asyncio.create_task(outcome(stage, {})) for _ in range(40)]
        active = stage.fleet.requests.active
        for stub in stage.stubs[:2]:
            await until(lambda: active and all(each.flows_since_s for each in active.values()))
            assert isinstance(stub, MortalInstance)
            stub.die()
        async with asyncio.timeout(60.0):
            answers = await asyncio.gather(*streams)

        assert {text_of(body) for _, body in answers} == {full_text(60)}


async def test_broken_connections_of_a_server_that_lives_convict_nobody() -> None:
    """Reset by a proxy, cut by a timeout: the server answers its health check all the same."""
    async with Stage(2, max_attempts=8) as stage:
        for stub in stage.stubs:
            stub.scripts.extend(Script(0, then="die") for _ in range(2))
        got = await stage.stream()

        assert text_of(got) == full_text(TOKENS)
