"""A client that has shut down its sending side gets its answer; one that is gone is noticed."""

import asyncio
import socket
from typing import Any

import pytest

from tests.llumnix.frontend.paths.served import PathServer, answer
from tests.llumnix.frontend.paths.test_fidelity import request
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script


async def ask(stage: Stage, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = stage.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    return reader, writer


def slow(delay_s: float) -> Any:
    async def play(http: Any) -> Any:
        await asyncio.sleep(delay_s)
        return await answer(200, {"served": True})(http)

    return play


@pytest.mark.parametrize("delay_s", [0.0, 1.0])
async def test_a_client_that_has_said_all_gets_its_answer(delay_s: float) -> None:
    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(slow(delay_s))
        reader, writer = await ask(stage, request("/v1/embeddings"))
        writer.write_eof()
        async with asyncio.timeout(20.0):
            got = await reader.read()
        writer.close()

    head, _, _ = got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n")
    assert head == b"HTTP/1.1 200 OK"
    assert got.endswith(b'{"served": true}')


async def test_an_old_client_gets_an_answer_that_is_there_soon() -> None:
    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(slow(0.2))
        data = request("/v1/embeddings").replace(b"HTTP/1.1", b"HTTP/1.0")
        reader, writer = await ask(stage, data)
        writer.write_eof()
        async with asyncio.timeout(20.0):
            got = await reader.read()
        writer.close()

    assert got.startswith(b"HTTP/1.0 200 OK")
    assert got.endswith(b'{"served": true}')


async def test_such_a_client_gets_its_whole_stream() -> None:
    body = b'{"model":"m","prompt":"","stream":true}'
    async with Stage(1) as stage:
        script = Script()
        script.pause = lambda: asyncio.sleep(0.02)
        stage.stubs[0].scripts.append(script)
        reader, writer = await ask(stage, request("/v1/completions", body))
        writer.write_eof()
        async with asyncio.timeout(20.0):
            got = await reader.read()
        writer.close()

    assert b"data: [DONE]\n\n" in got


async def test_without_a_request_the_connection_just_ends() -> None:
    async with Stage(1) as stage:
        reader, writer = await ask(stage, b"")
        writer.write_eof()
        async with asyncio.timeout(20.0):
            assert await reader.read() == b""
        writer.close()


async def test_half_a_request_has_no_answer() -> None:
    async with Stage(1) as stage:
        reader, writer = await ask(stage, request("/v1/completions")[:-5])
        writer.write_eof()
        async with asyncio.timeout(20.0):
            assert b"200" not in await reader.read()
        writer.close()


@pytest.mark.parametrize("linger", [False, True], ids=["fin", "reset"])
async def test_a_client_that_is_gone_is_noticed_while_nothing_is_sent(linger: bool) -> None:
    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(Script(silent=True))
        _, writer = await ask(stage, request("/v1/completions", b'{"model":"m","prompt":""}'))
        await asyncio.wait_for(stage.stubs[0].began.wait(), 20.0)
        if linger:
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        await asyncio.wait_for(stage.stubs[0].cancelled.wait(), 20.0)
        await until(lambda: not stage.fleet.requests.active)
