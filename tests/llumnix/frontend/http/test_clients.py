"""Clients of every kind: old, slow, gone quiet; and the event loop the service really runs on."""

import asyncio
import socket

import uvloop

from tests.llumnix.frontend.splicing.chunks import Writer
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS, Script

PLAIN = b"".join(Writer(ids=False).stream(TOKENS))


def request(version: bytes) -> bytes:
    """Write a streaming request by hand."""
    body = b'{"model":"m","prompt":"","stream":true}'
    head = b"POST /v1/completions %b\r\nHost: x\r\nX-Request-Id: r\r\nContent-Length: %d\r\n\r\n"
    return head % (version, len(body)) + body


def test_the_event_loop_of_production_works_as_well() -> None:
    """Tests run on asyncio's own loop, the service on uvloop: both carry a stream through."""

    async def run() -> bytes:
        async with Stage() as stage:
            stage.order("m", "a", "b")
            stage.stubs[0].scripts.append(Script(4, then="redirect"))
            async with stage.post(X_Request_Id="r") as response:
                return bytes(await response.read())

    assert uvloop.run(run()) == PLAIN


async def test_a_client_of_http_1_0_gets_plain_bytes() -> None:
    """It knows no chunks: the stream ends with the connection."""
    async with Stage(1) as stage:
        host, port = stage.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request(b"HTTP/1.0"))
        got = await asyncio.wait_for(reader.read(), 10.0)
        writer.close()

        assert got.partition(b"\r\n\r\n")[2] == PLAIN


async def test_a_client_that_stops_reading_is_cut_and_its_instance_freed() -> None:
    """Backpressure: what it does not read is not piled up here; and it may not stall forever."""
    async with Stage(1, idle_timeout_s=0.3) as stage:
        stage.stubs[0].scripts.append(Script(2_000_000, merge=1000))
        host, port = stage.url.removeprefix("http://").split(":")
        client = socket.socket()
        # A small window, so that little is on its way.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
        await asyncio.get_running_loop().sock_sendall(client, request(b"HTTP/1.1"))
        await asyncio.wait_for(stage.stubs[0].cancelled.wait(), 20.0)
        await until(lambda: not stage.fleet.requests.active)
        client.close()

        assert stage.metric("requests_total", class_name="normal", outcome="cancelled") == 1
