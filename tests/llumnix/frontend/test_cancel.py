"""When a client leaves, its instance stops working for it at once, whatever it was doing."""

import asyncio

import aiohttp
import pytest

from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script


async def leave(stage: Stage, *, stream: bool) -> None:
    """Open a connection of our own, wait until the instance has begun, and cut the connection."""
    stub = stage.stubs[0]
    async with aiohttp.ClientSession(base_url=stage.url) as session:
        asked = asyncio.ensure_future(
            session.post("/v1/completions", json={"model": "m", "prompt": "", "stream": stream})
        )
        await asyncio.wait_for(stub.began.wait(), 10.0)
        if stream and not stub.began_silently:
            response = await asked
            await response.content.readany()
            response.close()
        else:
            asked.cancel()
    await asyncio.wait_for(stub.cancelled.wait(), 10.0)


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        pytest.param(Script(3, then="hang"), True, id="mid-stream"),
        pytest.param(Script(silent=True), True, id="before the first byte"),
        pytest.param(Script(silent=True), False, id="not streaming"),
    ],
)
async def test_upstream_is_cancelled_when_the_client_leaves(script: Script, stream: bool) -> None:
    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(script)
        stage.stubs[0].began_silently = script.silent
        await leave(stage, stream=stream)
        await until(lambda: not stage.fleet.requests.active)

        assert stage.metric("requests_total", class_name="normal", outcome="cancelled") == 1
        assert stage.fleet.tally.streams_open == 0


async def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    """Nothing is sent for it, and those behind it move up."""
    async with Stage(1) as stage:
        stage.instance("a").set_draining(on=True)
        async with aiohttp.ClientSession(base_url=stage.url) as session:
            asked = asyncio.ensure_future(session.post("/v1/completions", json={"prompt": ""}))
            await until(lambda: stage.fleet.requests.active)
            asked.cancel()
        await until(lambda: not stage.fleet.requests.active)
        stage.instance("a").set_draining(on=False)
        stage.report("a")

        assert not stage.stubs[0].heard
        assert stage.metric("requests_total", class_name="normal", outcome="cancelled") == 1
