"""Connections to instances behind TLS: handshakes are few at a time, and resumed where possible."""

import asyncio
import ssl
import time
from pathlib import Path

import pytest
import uvloop

from llumnix.frontend.http import connection as connections
from llumnix.frontend.http.connection import Connection, ConnectionPool, InstanceUnreachable
from llumnix.instances.config import FleetConfig, InstanceSpec
from llumnix.instances.credentials import endpoint_of
from llumnix.instances.endpoints.endpoint import Endpoint
from tests.llumnix.frontend.stage import until
from tests.llumnix.instances.certificates import Authority
from tests.llumnix.instances.raw_server import raw_server


def trusting(url: str, authority: Authority) -> Endpoint:
    return endpoint_of(InstanceSpec(url, ca_file=authority.ca), FleetConfig(), {})


async def answered(pool: ConnectionPool, endpoint: Endpoint) -> Connection:
    connection = await pool.ask(endpoint, "/v1/x", {}, b"{}")
    assert (await connection.head()).status == 200
    while await connection.read():
        pass
    return connection


def resumed(connection: Connection) -> bool | None:
    assert connection._transport is not None
    secured: ssl.SSLObject = connection._transport.get_extra_info("ssl_object")
    return secured.session_reused


async def first_and_second(authority: Authority) -> tuple[bool | None, bool | None]:
    context = await asyncio.to_thread(authority.server_context)
    pool = ConnectionPool(20.0)
    async with raw_server(tls=context) as server:
        endpoint = trusting(server.url, authority)
        first = await answered(pool, endpoint)
        one = resumed(first)
        pool.give_back(endpoint, first)
        first.close()
        second = await answered(pool, endpoint)
        other = resumed(second)
        pool.give_back(endpoint, second)
        pool.close()
    return one, other


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_later_connection_resumes_an_earlier_session(loop: str, tmp_path: Path) -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(first_and_second(Authority.make(tmp_path))) == (False, True)


async def test_handshakes_with_one_server_are_few_at_a_time() -> None:
    """The others wait their turn, within the time that connecting may take."""
    greeted: list[asyncio.StreamWriter] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeted.append(writer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    endpoint = Endpoint.at(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    pool = ConnectionPool(0.5)
    began = time.monotonic()
    asking = [asyncio.create_task(pool.ask(endpoint, "/", {}, b"")) for _ in range(40)]
    await until(lambda: len(greeted) == connections._HANDSHAKES_PER_HOST)
    got = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, InstanceUnreachable) for each in got)
    assert time.monotonic() - began < 10
    for writer in greeted:
        writer.transport.abort()
    server.close()
    await server.wait_closed()


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    context = await asyncio.to_thread(Authority.make(tmp_path).server_context)
    pool = ConnectionPool(20.0)
    async with raw_server(tls=context) as server:
        with pytest.raises(InstanceUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await pool.ask(Endpoint.at(server.url), "/", {}, b"")
