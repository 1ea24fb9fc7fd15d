"""A stream that is over leaves nothing to the garbage collector, which looks rarely."""

import asyncio
import gc
from collections import Counter

import pytest

from tests.llumnix.frontend.stage import Stage, until

ROOMS = ("llumnix.frontend.relay", "llumnix.frontend.moves", "llumnix.frontend.splicing")


def left() -> Counter[str]:
    """Count what streams are made of and is still there."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if str(kind.__module__).startswith(ROOMS)
    )


@pytest.mark.parametrize("plugged", [True, False])
@pytest.mark.parametrize("express", [True, False], ids=["the short way", "the long way"])
async def test_streams_leave_nothing_behind(express: bool, plugged: bool) -> None:
    async with Stage(1, plugged=plugged, express=express) as stage:

        async def stream() -> None:
            body = {"model": "m", "prompt": "hi", "stream": True}
            async with stage.session.post("/v1/completions", json=body) as response:
                assert b"[DONE]" in await response.read()

        await stream()
        await until(lambda: not stage.fleet.requests.active)
        gc.collect()
        gc.disable()
        try:
            before = left()
            for _ in range(10):
                await stream()
            await until(lambda: not stage.fleet.requests.active)
            await asyncio.sleep(0)
            more = left() - before
        finally:
            gc.enable()
    # The connection's last request may still be held by the connection.
    assert all(count <= 2 for count in more.values()), more
