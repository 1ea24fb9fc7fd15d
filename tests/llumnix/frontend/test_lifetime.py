"""Shutting down: probes are told first, newcomers next, and open streams end whole."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llumnix.frontend.lifetime import Phase
from tests.llumnix.frontend.splicing.chunks import DONE
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script


async def status(stage: Stage, path: str) -> int:
    async with stage.session.get(path) as response:
        await response.read()
        return int(response.status)


@asynccontextmanager
async def leaving(
    stage: Stage, delay_s: float = 0.0, grace_s: float = 20.0
) -> AsyncIterator[tuple["asyncio.Task[int]", asyncio.Event]]:
    """Let a frontend take leave meanwhile; the event hurries it."""
    hurry = asyncio.Event()
    task = asyncio.create_task(stage.server.lifetime.leave(delay_s, grace_s, hurry))
    try:
        yield task, hurry
    finally:
        hurry.set()
        await task


async def test_alive_is_whoever_answers_and_ready_follows_the_instances() -> None:
    async with Stage(1) as stage:
        assert (await status(stage, "/health"), await status(stage, "/ready")) == (200, 200)
        stage.instance("a").set_draining(on=True)
        assert (await status(stage, "/health"), await status(stage, "/ready")) == (200, 503)
        async with stage.session.get("/ready") as response:
            assert (await response.json())["reason"] == "no instance is up"
            assert int(response.headers["Retry-After"]) >= 1


async def test_probes_hear_of_it_while_everything_is_still_served() -> None:
    async with Stage(1) as stage, leaving(stage, delay_s=60.0) as (task, _):
        await until(lambda: stage.server.lifetime.phase is Phase.LEAVING)
        assert (await status(stage, "/health"), await status(stage, "/ready")) == (200, 503)
        assert (await stage.stream()).endswith(DONE)
        async with stage.post(stream=False) as response:
            assert response.status == 200
            assert response.headers["Connection"] == "close"
        assert not task.done()


async def test_newcomers_are_sent_elsewhere_and_the_open_stream_ends_whole() -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(Script(pause=wait))
        stream = asyncio.create_task(stage.stream())
        await stage.stubs[0].began.wait()
        async with leaving(stage) as (task, _):
            await until(lambda: stage.server.lifetime.phase is Phase.CLOSED)
            for path in ("/v1/chat/completions", "/v1/embeddings", "/anything"):
                async with stage.session.post(path, json={"model": "m"}) as response:
                    assert response.status == 503
                    assert response.headers["Connection"] == "close"
                    assert int(response.headers["Retry-After"]) >= 1
                    assert (await response.json())["error"]["code"] == "shutting_down"
            assert await status(stage, "/metrics") == 200
            assert not task.done()

            gate.set()
            assert (await stream).endswith(DONE)
            assert await task == 0


async def test_what_does_not_end_within_the_grace_is_cut_and_counted_as_failed() -> None:
    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(Script(tokens=2, then="hang"))
        response = await stage.post()
        await response.content.readany()
        async with leaving(stage, grace_s=0.05) as (task, _):
            assert await task == 1
        response.close()
        await until(lambda: stage.fleet.tally.outcomes["failed"] == 1)
        await stage.stubs[0].cancelled.wait()


async def test_in_a_hurry_nothing_is_waited_for() -> None:
    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(Script(tokens=2, then="hang"))
        response = await stage.post()
        await response.content.readany()
        async with leaving(stage, delay_s=600.0, grace_s=600.0) as (task, hurry):
            hurry.set()
            async with asyncio.timeout(20):
                assert await task == 1
        response.close()


async def test_a_ready_answer_is_json() -> None:
    async with Stage(1) as stage, stage.session.get("/ready") as response:
        assert json.loads(await response.text()) == {"ready": True}
