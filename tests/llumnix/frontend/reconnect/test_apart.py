"""Two complete frontends before the same instances know nothing of each other: nothing breaks."""

import asyncio
from collections.abc import Callable

from tests.llumnix.frontend.reconnect.doors import (
    COMPLETIONS,
    Door,
    Doors,
    bare,
    completion,
    doors,
    events,
    leave_after,
    timeless,
)
from tests.llumnix.frontend.stage import until

LONG = 300


async def _moved(door: Door, request_id: str) -> None:
    """Order a request to another instance, and wait until it is there."""
    active = door.fleet.requests.active

    def place() -> str | None:
        found = next((each for each in active.values() if each.request_id == request_id), None)
        return None if found is None or not found.tokens() else found.instance_id

    await until(place)
    source = place()
    assert source is not None
    (to,) = (each.id for each in door.fleet.instances if each.id != source)
    order = {"source": source, "destination": to, "request_id": request_id}
    async with door.session.post("/llumnix/migrate", json=order) as response:
        assert response.status == 200, await response.text()
    arrived: Callable[[], bool] = lambda: place() in (to, None)  # noqa: E731
    await until(arrived)
    assert place() == to, "it moved while it ran"


async def _stream(all_: Doors, number: int) -> bytes:
    body = completion(prompt=f"of {number}", max_tokens=LONG)
    return await all_.doors[number].whole(body, f"r{number}", None)


async def test_each_moves_its_own_requests_at_the_same_time() -> None:
    async with doors(2, 2, speed=0.5) as all_:
        streams = [asyncio.create_task(_stream(all_, number)) for number in range(2)]
        await asyncio.gather(*(_moved(all_.doors[number], f"r{number}") for number in range(2)))
        moved = [timeless(each) for each in await asyncio.gather(*streams)]
        await all_.quiet()
        assert moved == [timeless(await _stream(all_, number)) for number in range(2)]


async def test_a_moved_request_is_remembered_where_it_ended() -> None:
    body = completion(max_tokens=LONG)
    async with doors(2, 2, speed=0.5) as all_:
        leaving = asyncio.create_task(
            leave_after(all_.doors[0], body, "r", LONG - 20, path=COMPLETIONS)
        )
        await _moved(all_.doors[0], "r")
        had = await leaving
        await all_.quiet()
        rest = await all_.doors[1].whole(body, "r", events(had)[-1][0])
        whole = await all_.doors[1].whole(body, "whole", None)
        assert timeless(bare(had + rest)) == timeless(whole)
