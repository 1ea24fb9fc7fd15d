"""A client that comes back is given the rest of its answer, once, exactly, from any frontend."""

import json
from typing import Any

import pytest

from tests.llumnix.frontend.reconnect.doors import (
    CHAT,
    COMPLETIONS,
    TOKENS,
    bare,
    chat,
    completion,
    doors,
    events,
    leave_after,
    timeless,
)

USAGE = {"stream_options": {"include_usage": True}}
BODIES: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, completion()),
    (COMPLETIONS, completion(return_token_ids=True, **USAGE)),
    (CHAT, chat(**USAGE)),
    (CHAT, chat(stop=["e", "zz"], **USAGE)),
]


async def test_without_the_header_nothing_changes() -> None:
    async with doors(1, 1) as all_:
        plain = await all_.doors[0].whole(completion(), "r", None)
        assert b"id: " not in plain
        numbered = await all_.doors[0].whole(completion(), "r2", "0")
        assert timeless(bare(numbered)) == timeless(plain)


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize("other", [0, 1], ids=["the same door", "another"])
async def test_the_parts_are_the_whole(path: str, body: dict[str, Any], other: int) -> None:
    """Cut after any event; the rest is what the uninterrupted stream goes on with."""
    async with doors() as all_:
        first, then = all_.doors[0], all_.doors[other]
        whole = timeless(await first.whole(body, "whole", None, path=path))
        count = len(events(await first.whole(body, "counted", "0", path=path)))
        assert count > 3
        for cut in sorted({*range(1, count, 5), 1, 2, count - 2, count - 1}):
            name = f"r{cut}"
            had = await leave_after(first, body, name, cut, path=path)
            await all_.quiet()
            rest = await then.whole(body, name, events(had)[-1][0], path=path)
            assert timeless(bare(had + rest)) == whole, cut
            stamps = {json.loads(e[6:])["created"] for _, e in events(had + rest) if b"{" in e}
            assert len(stamps) == 1, "one stream has one time"


@pytest.mark.parametrize("temperature", [0, 1])
async def test_what_nobody_remembers_is_computed_again_only_if_nothing_is_drawn(
    temperature: int,
) -> None:
    body = completion(temperature=temperature)
    async with doors() as all_:
        first, then = all_.doors
        whole = timeless(await first.whole(body, "whole", None))
        had = await leave_after(first, body, "r", 7, path=COMPLETIONS)
        await all_.quiet()
        all_.forget()
        since = events(had)[-1][0]
        async with then.post(body, "r", since) as response:
            if temperature:
                assert response.status == 409
                assert (await response.json())["error"]["code"] == "answer_lost"
                return
            assert timeless(bare(had + await response.read())) == whole


async def test_the_rest_may_be_had_again() -> None:
    async with doors(1, 1) as all_:
        door = all_.doors[0]
        had = await leave_after(door, completion(), "r", 9, path=COMPLETIONS)
        await door.idle()
        since = events(had)[-1][0]
        once = await door.whole(completion(), "r", since)
        again = await door.whole(completion(), "r", since)
        assert once == again
        assert len(events(once)) == TOKENS + 1 - 9


async def test_one_connection_at_a_time() -> None:
    async with doors(1, 2, speed=0.05) as all_:
        body = completion(max_tokens=400)
        had = await leave_after(all_.doors[0], body, "r", 3, path=COMPLETIONS)
        await all_.quiet()
        since = events(had)[-1][0]
        async with all_.doors[0].post(body, "r", since) as response:
            assert response.status == 200
            for door in all_.doors:
                async with door.post(body, "r", since) as second:
                    assert second.status == 409, await second.text()
                    assert second.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("body", "since", "status"),
    [
        (completion(prompt="another", temperature=1), None, 409),
        (completion(), "5.0.0.0.1.00000000", 409),
        (completion(), "nonsense", 400),
        (completion(n=2), "0", 400),
    ],
    ids=["another body", "another answer", "no id", "two choices"],
)
async def test_nothing_but_the_exact_rest(
    body: dict[str, Any], since: str | None, status: int
) -> None:
    async with doors(1, 1) as all_:
        door = all_.doors[0]
        had = await leave_after(door, completion(), "r", 5, path=COMPLETIONS)
        await door.idle()
        last = events(had)[-1][0]
        async with door.post(body, "r", last if since is None else since) as response:
            assert response.status == status, await response.text()
        if status == 409:
            rest = await door.whole(completion(), "r", last)
            assert len(events(had + rest)) == TOKENS + 1, "the owner still gets it"


async def test_another_client_is_given_nothing() -> None:
    """Without keys of the frontend's own, the key that is passed on tells clients apart."""
    async with doors(1, 1) as all_:
        door = all_.doors[0]
        body = completion(temperature=1)
        had = await leave_after(door, body, "r", 5, path=COMPLETIONS)
        await door.idle()
        headers = {"X-Request-Id": "r", "Last-Event-ID": events(had)[-1][0]}
        headers["Authorization"] = "Bearer someone-else"
        async with door.session.post(COMPLETIONS, json=body, headers=headers) as response:
            assert response.status == 409


async def test_an_answer_in_one_piece_is_given_whole() -> None:
    async with doors(2, 2) as all_:
        body = completion(stream=False)
        async with all_.doors[0].post(body, "r", "0") as response:
            first = await response.json()
        async with all_.doors[1].post(body, "r", "0") as response:
            second = await response.json()
        assert first["choices"] == second["choices"]
        assert first["usage"] == second["usage"]
