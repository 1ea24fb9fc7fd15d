"""WebSockets are passed through, both ways, to how they close."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from tests.llumnix.frontend.paths.served import PathServer, Play
from tests.llumnix.frontend.stage import Stage, until

PATH = "/v1/realtime"


def speak(talk: Callable[[web.WebSocketResponse], Awaitable[object]]) -> Play:
    """Play a server that accepts a WebSocket and talks."""

    async def play(http: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("realtime",))
        await socket.prepare(http)
        await talk(socket)
        return socket

    return play


async def echo(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)


async def echoed(stage: Stage, at: int, query: str = "") -> int | None:
    stub = stage.stubs[at]
    assert isinstance(stub, PathServer)
    stub.plays.append(speak(echo))
    async with stage.session.ws_connect(PATH + query) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        await socket.close(code=4001)
        return socket.close_code


async def test_messages_pass_both_ways() -> None:
    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(speak(echo))
        async with stage.session.ws_connect(PATH + "?x=1", protocols=("other", "realtime")) as it:
            assert it.protocol == "realtime"
            for text in ("a", "", "é" * 100_000):
                await it.send_str(text)
                assert await it.receive_str() == text
            await it.send_bytes(b"\x00" * 70_000)
            assert await it.receive_bytes() == b"\x00" * 70_000
        assert stub.got[0].path == PATH + "?x=1"
        await until(lambda: not stage.fleet.requests.active)


@pytest.mark.parametrize(("code", "reason"), [(1000, b""), (4008, b"policy"), (1011, b"oops")])
async def test_the_client_hears_how_the_server_closes(code: int, reason: bytes) -> None:
    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(speak(lambda socket: socket.close(code=code, message=reason)))
        async with stage.session.ws_connect(PATH) as socket:
            message = await socket.receive()

    assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, code, reason.decode())


async def test_the_server_hears_how_the_client_closes() -> None:
    heard: list[int | None] = []

    async def listen(socket: web.WebSocketResponse) -> None:
        await socket.receive()
        heard.append(socket.close_code)

    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(speak(listen))
        async with stage.session.ws_connect(PATH) as socket:
            await socket.close(code=4007)
        await until(lambda: heard)

    assert heard == [4007]


async def test_the_server_hears_of_a_client_that_is_gone() -> None:
    left = asyncio.Event()

    async def listen(socket: web.WebSocketResponse) -> None:
        await socket.receive()
        left.set()

    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(speak(listen))
        async with aiohttp.ClientSession(base_url=stage.url) as session:
            socket = await session.ws_connect(PATH)
            transport = socket.get_extra_info("socket")
            assert transport is not None
            response = socket._response
            assert response.connection is not None
            assert response.connection.transport is not None
            response.connection.transport.abort()
            await asyncio.wait_for(left.wait(), 20.0)
        await until(lambda: not stage.fleet.requests.active)


async def test_a_client_hears_of_a_server_that_is_gone() -> None:
    async def die(socket: web.WebSocketResponse) -> None:
        await socket.receive()
        transport = socket.get_extra_info("socket")
        assert transport is not None
        transport.shutdown(2)

    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(speak(die))
        async with stage.session.ws_connect(PATH) as socket:
            await socket.send_str("x")
            message = await socket.receive()

    assert message.type is WSMsgType.CLOSE
    assert message.data == 1011


async def test_it_goes_to_a_server_of_its_model() -> None:
    async with Stage(2, engine=PathServer, models={"a": "x", "b": "y"}) as stage:
        assert await echoed(stage, 1, "?model=y") == 4001
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stage.session.ws_connect(PATH + "?model=z")
        assert refused.value.status == 404


async def test_a_dead_server_is_replaced() -> None:
    async with Stage(2, engine=PathServer) as stage:
        await stage.stubs[0].stop()
        for _ in range(2):
            assert await echoed(stage, 1) == 4001


async def test_a_refused_handshake_is_passed_on() -> None:
    async with Stage(1, engine=PathServer) as stage:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stage.session.ws_connect(PATH)
        assert refused.value.status == 502  # the server answered 200, as to any other request


async def test_a_socket_that_is_open_is_listed() -> None:
    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(speak(echo))
        async with (
            stage.session.ws_connect(PATH),
            stage.session.get("/llumnix/requests") as listed,
        ):
            (row,) = await listed.json()
    assert (row["instance_id"], row["movable"]) == ("a", False)
