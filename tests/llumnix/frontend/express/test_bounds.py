"""What the short way bounds: answers that nobody reads, bodies that come in pieces."""

import asyncio
import json
import socket
from typing import Never

import pytest
from aiohttp import web

from tests.llumnix.frontend.mortal import POISON, MortalInstance
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import StubInstance

_LONG = 1024 * 1024
_MANY = 40


class WordyInstance(StubInstance):
    """Answers with a megabyte."""

    answered = 0

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        await http.read()
        self.answered += 1
        return web.Response(body=b"x" * _LONG, content_type="application/json")


def request(path: str = "/v1/completions", **body: object) -> bytes:
    raw = json.dumps({"model": "m", "prompt": "hi", **body}).encode()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(raw))
    return head + raw


async def connected(stage: Stage) -> socket.socket:
    """Open a connection with a small window, so that little lies between the two ends."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    host, _, port = stage.url.removeprefix("http://").partition(":")
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    return client


async def test_who_takes_no_answers_is_given_few_and_all_once_it_reads() -> None:
    """Each request comes in a packet of its own: none waits behind another in the same one."""
    async with Stage(1, plugged=False, engine=WordyInstance) as stage:
        stub, loop = stage.stubs[0], asyncio.get_running_loop()
        assert isinstance(stub, WordyInstance)
        client = await connected(stage)
        with client:
            await loop.sock_sendall(client, request())
            await until(lambda: stub.answered == 1)
            for _ in range(_MANY - 1):
                await loop.sock_sendall(client, request())
                await asyncio.sleep(0.01)
            assert stub.answered < _MANY / 2
            got = bytearray()
            async with asyncio.timeout(30.0):
                while len(got) < _MANY * _LONG:
                    got += await loop.sock_recv(client, 1 << 20)
                await until(lambda: stub.answered == _MANY)
            assert stage.server._lane is not None
            assert stage.server._lane.taken >= 1


@pytest.mark.parametrize("size", [100, 60_000, 200_000])
async def test_a_body_in_pieces_is_served_and_none_of_it_stays_held(size: int) -> None:
    async with Stage(1, plugged=False) as stage:
        loop, raw = asyncio.get_running_loop(), request(prompt="x" * size)
        client = await connected(stage)
        with client:
            for start in range(0, len(raw), len(raw) // 5 + 1):
                await loop.sock_sendall(client, raw[start : start + len(raw) // 5 + 1])
                await asyncio.sleep(0.01)
            async with asyncio.timeout(30.0):
                answer = await loop.sock_recv(client, 65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert json.loads(stage.stubs[0].heard[0].raw)["prompt"] == "x" * size
        await until(lambda: stage.server.intake.budget.held_bytes == 0)


async def test_a_condemned_request_is_known_on_the_short_way() -> None:
    """Also where a connection to each instance is at hand, so that nothing has to be waited for."""
    async with Stage(6, plugged=False, engine=MortalInstance) as stage:
        client = await connected(stage)
        with client:
            for _ in range(2 * len(stage.stubs)):
                assert (await answer_to(client, request())).startswith(b"HTTP/1.1 200 ")
            for _ in range(3):
                answer = await answer_to(client, request(prompt=POISON))
                assert answer.startswith(b"HTTP/1.1 502 ")
                dead = sum(each.dead for each in stage.stubs if isinstance(each, MortalInstance))
                assert dead == 2


async def test_a_policy_that_crashes_is_told_as_a_500_and_the_next_request_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Stage(1, plugged=False) as stage:

        def crash(*_: object) -> Never:
            raise RuntimeError("a policy of our own")

        client = await connected(stage)
        with client:
            monkeypatch.setattr(stage.brain, "dispatch", crash)
            assert (await answer_to(client, request())).startswith(b"HTTP/1.1 500 ")
            assert not stage.fleet.requests.active
        monkeypatch.undo()
        client = await connected(stage)
        with client:
            assert (await answer_to(client, request())).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("base", "path", "taken"),
    [
        *(("/api", "/api/v1/completions", 1), ("/api/", "/v1/completions", 1)),
        *(("/api", "/apiv1/completions", 0), ("/v1", "/v1/completions", 0)),
        *(("", "/v1/completions", 1), ("", "/api/v1/completions", 0)),
    ],
)
async def test_the_short_way_is_found_below_the_path_that_it_is_mounted_at(
    base: str, path: str, taken: int
) -> None:
    answers = []
    for express in (True, False):
        async with Stage(1, plugged=False, express=express, base_path=base) as stage:
            client = await connected(stage)
            with client:
                answers.append((await answer_to(client, request(path)))[:12])
            if stage.server._lane is not None:
                assert stage.server._lane.taken == taken
    assert answers[0] == answers[1]


async def answer_to(client: socket.socket, sent: bytes) -> bytes:
    """Send a request; return the first part of its answer, which is short."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, sent)
    async with asyncio.timeout(30.0):
        return await loop.sock_recv(client, 65536)
