"""Before servers without the plugin, the frontend that had a stream goes on from what it sent."""

import asyncio

from tests.llumnix.frontend.reconnect.doors import bare, events, read_some
from tests.llumnix.frontend.splicing.chunks import full_text, text_of
from tests.llumnix.frontend.splicing.vllm_chunks import PROMPT
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.vllm_stub import Stay, VllmInstance


def stays(stage: Stage) -> list[Stay]:
    """List the requests that were at any instance."""
    return [stay for stub in stage.stubs if isinstance(stub, VllmInstance) for stay in stub.stays]


async def test_a_sampled_stream_is_carried_on_by_recompute() -> None:
    async with Stage(2, plugged=False, engine=VllmInstance) as stage:
        body = {"temperature": 1, "max_tokens": 12, "prompt": PROMPT}
        asking = asyncio.create_task(
            stage.post(body, X_Request_Id="r", Last_Event_ID="0").__aenter__()
        )
        await until(lambda: stays(stage))
        (first,) = stays(stage)
        first.give(5)
        response = await asking
        had = await asyncio.wait_for(read_some(response, 4), 20)
        response.close()
        await until(lambda: not stage.fleet.requests.active)
        since = events(had)[-1][0]
        again = asyncio.create_task(
            stage.post(body, X_Request_Id="r", Last_Event_ID=since).__aenter__()
        )
        await until(lambda: len(stays(stage)) == 2)
        (second,) = (each for each in stays(stage) if each is not first)
        second.finish(12)
        rest = await asyncio.wait_for((await again).read(), 20)
        assert text_of(bare(had + rest)) == full_text(12)
