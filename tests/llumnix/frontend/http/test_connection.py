"""Connections to instances: reused when they ended well, cut when not, never stuck."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from llumnix.frontend.http.connection import Connection, ConnectionPool, InstanceUnreachable
from llumnix.instances.endpoints.endpoint import Endpoint
from tests.llumnix.frontend.stage import until

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """A server that plays `play` for every request, and counts its connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.lost = asyncio.Event()
        self.url = ""

    async def serve(
        self, play: Play, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(4))
                await play(reader, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        finally:
            writer.close()


@asynccontextmanager
async def served(play: Play) -> AsyncIterator[tuple[Server, ConnectionPool]]:
    server, pool = Server(), ConnectionPool(5.0)

    serving: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(server.serve(play, reader, writer)))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server, pool
        pool.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def ask(server: Server, pool: ConnectionPool) -> Connection:
    connection = await pool.ask(Endpoint.at(server.url), "/v1/x", {"X-A": "é"}, b"body")
    await connection.head()
    return connection


async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ENDLESS + b"1\r\na\r\n")


async def test_a_request_is_written_whole_and_its_answer_read() -> None:
    async with served(ok) as (server, pool):
        connection = await ask(server, pool)
        assert await connection.read() == b"ok"
        assert await connection.read() == b""
        (request,) = server.requests

        assert request.startswith(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:")
        assert "X-A: é\r\n".encode() in request
        assert request.endswith(b"Content-Length: 4\r\n\r\nbody")


async def test_a_connection_that_ended_well_is_used_again() -> None:
    async with served(ok) as (server, pool):
        for _ in range(3):
            connection = await ask(server, pool)
            await connection.read()
            pool.give_back(Endpoint.at(server.url), connection)

        assert server.connections == 1
        assert len(server.requests) == 3


async def test_one_that_nobody_uses_is_closed_by_itself() -> None:
    """After a burst, hundreds of them would hold files open for ever."""
    async with served(ok) as (server, pool):
        endpoint = Endpoint.at(server.url)
        connection = await ask(server, pool)
        await connection.read()
        pool.give_back(endpoint, connection)
        async with asyncio.timeout(20):
            await server.lost.wait()
        assert connection.closed


async def test_one_given_back_in_the_middle_is_cut() -> None:
    """Its server notices at once: that is how requests are cancelled."""
    async with served(begin) as (server, pool):
        connection = await ask(server, pool)
        assert await connection.read() == b"a"
        pool.give_back(Endpoint.at(server.url), connection)
        await asyncio.wait_for(server.lost.wait(), 10.0)


async def test_cutting_wakes_whoever_waits() -> None:
    async with served(begin) as (server, pool):
        connection = await ask(server, pool)
        await connection.read()
        waiting = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        connection.close()
        with pytest.raises(OSError, match="closed by us"):
            await waiting


async def test_a_server_that_breaks_off_is_an_error_after_what_it_sent() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await begin(reader, writer)
        await writer.drain()
        writer.close()

    async with served(play) as (server, pool):
        connection = await ask(server, pool)
        assert await connection.read() == b"a"
        with pytest.raises(OSError, match="closed in the middle"):
            await connection.read()


async def test_a_dead_idle_connection_is_not_used_again() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        writer.close()

    async with served(play) as (server, pool):
        for number in (1, 2):
            connection = await ask(server, pool)
            await connection.read()
            pool.give_back(Endpoint.at(server.url), connection)
            await until(partial(getattr, connection, "closed"))
            assert server.connections == number


async def test_bytes_pour_until_the_sink_has_enough() -> None:
    """Poured bytes are gone; what comes later can be read; nothing is lost or doubled."""
    more = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ENDLESS)
        for letter in b"abcdef":
            await asyncio.wait_for(more.wait(), 10.0)
            more.clear()
            writer.write(b"1\r\n%c\r\n" % letter)
        writer.write(b"0\r\n\r\n")

    async with served(play) as (server, pool):
        connection = await ask(server, pool)
        poured = b""

        def sink(data: bytes) -> bool:
            nonlocal poured
            poured += data
            more.set()
            return poured != b"abc"

        more.set()
        await connection.pour(sink)
        assert poured == b"abc"
        read = b""
        while data := await connection.read():
            read += data
            more.set()

        assert read == b"def"
        assert connection.reusable


async def test_pouring_ends_with_the_stream() -> None:
    async with served(begin) as (server, pool):
        connection = await ask(server, pool)
        await connection.read()
        pouring = asyncio.create_task(connection.pour(lambda _: True))
        await asyncio.sleep(0)
        connection.close()
        await pouring
        with pytest.raises(OSError, match="closed by us"):
            await connection.read()


async def test_nobody_there_is_unreachable() -> None:
    async with served(ok) as (server, pool):
        pass
    with pytest.raises(InstanceUnreachable):
        await pool.ask(Endpoint.at(server.url), "/", {}, b"")
