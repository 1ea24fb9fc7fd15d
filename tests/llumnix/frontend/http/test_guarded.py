"""Clients that are slow, mute, deaf or too many, on real sockets."""

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

import pytest

from llumnix.processes.open_files import connections_allowed
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"model": "m", "prompt": "hi"}).encode()
STREAMED = json.dumps({"model": "m", "prompt": "hi", "stream": True}).encode()
HASTY: dict[str, Any] = {
    "header_timeout_s": 0.3,
    "body_timeout_s": 0.3,
    "body_rate_bytes_per_s": 1e9,
}


def whole(body: bytes = BODY) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def connect(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = stage.url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def said(stage: Stage, data: bytes) -> bytes:
    """Send bytes, and read until the frontend closes."""
    reader, writer = await connect(stage)
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            answer = b""
            with suppress(ConnectionError):
                while part := await reader.read(65536):
                    answer += part
            return answer
    finally:
        writer.close()


def guard(stage: Stage) -> Any:
    return stage.server.listeners.guards[0]


@pytest.mark.parametrize("sent", [b"", b"P", HEAD], ids=["mute", "a letter", "half a head"])
async def test_a_head_that_does_not_come_ends_the_connection(sent: bytes) -> None:
    async with Stage(1, **HASTY) as stage:
        answer = await said(stage, sent)
        assert answer.startswith(b"HTTP/1.1 408") if sent else answer == b""
        assert guard(stage).turned_away == {"head": 1}


async def test_a_second_head_has_no_more_time_than_the_first() -> None:
    async with Stage(1, **HASTY) as stage:
        reader, writer = await connect(stage)
        writer.write(whole())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await until(lambda: not stage.fleet.requests.active)
        writer.write(b"POST /v1/comp")
        async with asyncio.timeout(20):
            assert b"HTTP/1.1 408" in await reader.read()
        writer.close()


async def test_a_body_that_does_not_come_is_refused() -> None:
    async with Stage(1, **HASTY) as stage:
        answer = await said(stage, HEAD + b'Content-Length: 900\r\n\r\n{"model":')
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"slow_body" in answer
        assert stage.stubs[0].heard == []


async def test_a_slow_body_on_any_path_ends_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Stage(1, **HASTY) as stage:
        await said(stage, b"POST /echo/x HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nabc")
        await until(lambda: not guard(stage).open - {None})
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("path", [b"/v1/completions", b"/nowhere", b"/llumnix/drain"])
async def test_odd_expectations_are_refused_not_stumbled_over(
    path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with Stage(1) as stage:
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % path
        for odd in (b"10\xe3-continue", b"\xb7", b"a cup of tea"):
            answer = await said(stage, head + b"Expect: %b\r\nContent-Length: 0\r\n\r\n" % odd)
            assert answer.startswith(b"HTTP/1.1 417")
    assert "Traceback" not in caplog.text


async def test_a_client_that_waits_for_leave_to_send_its_body_gets_it() -> None:
    async with Stage(1) as stage:
        reader, writer = await connect(stage)
        writer.write(HEAD + b"Expect: 100-Continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        async with asyncio.timeout(20):
            assert (await reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_an_endless_head_is_refused() -> None:
    async with Stage(1, header_limit_bytes=10_000) as stage:
        flood = b"".join(b"X-%d: %b\r\n" % (number, b"y" * 500) for number in range(60))
        answer = await said(stage, HEAD + flood)
        assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


async def test_an_early_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with Stage(1, body_limit_bytes=1000, header_limit_bytes=2000) as stage:
        reader, writer = await connect(stage)
        writer.write(HEAD + b"Content-Length: 5000000\r\n\r\n")
        for _ in range(50):
            writer.write(b"x" * 100_000)
            with suppress(ConnectionError):
                await writer.drain()
        async with asyncio.timeout(20):
            line = await reader.readline()
        assert line.startswith(b"HTTP/1.1 413")
        writer.transport.abort()


async def test_a_client_that_does_not_read_is_cut_and_its_request_with_it() -> None:
    async with Stage(1, idle_timeout_s=1.0, event_limit_bytes=64 * 2**20) as stage:
        stage.stubs[0].scripts.append(Script(tokens=200_000))
        host, _, port = stage.url.removeprefix("http://").partition(":")
        deaf = socket.create_connection((host, int(port)))
        try:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({"model": "m", "prompt": "hi", "stream": True}).encode()
            deaf.sendall(whole(body))
            await until(lambda: stage.stubs[0].heard)
            async with asyncio.timeout(20):
                await stage.stubs[0].cancelled.wait()
            await until(lambda: stage.fleet.requests.active == {})
        finally:
            deaf.close()


async def test_connections_are_bounded_and_idle_ones_make_room() -> None:
    async with Stage(1, max_connections=3) as stage:
        idle = [await connect(stage) for _ in range(3)]
        await until(lambda: len(guard(stage).open) == 3)
        async with asyncio.timeout(20):
            leaving = whole().replace(b"Host", b"Connection: close\r\nHost")
            assert (await said(stage, leaving)).startswith(b"HTTP/1.1 200")
            assert await idle[0][0].read() == b""  # the one that was idle for longest
        for _, writer in idle:
            writer.close()


async def test_when_all_connections_are_busy_a_newcomer_is_told_to_come_again() -> None:
    async with Stage(1, max_connections=2) as stage:
        hold = asyncio.Event()

        async def pause() -> None:
            await hold.wait()

        stage.stubs[0].scripts.extend([Script(pause=pause), Script(pause=pause)])
        busy = [await connect(stage) for _ in range(2)]
        for _, writer in busy:
            writer.write(whole(STREAMED))
        await until(lambda: len(stage.stubs[0].heard) == 2)
        answer = await said(stage, whole())
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in answer
        hold.set()
        for reader, writer in busy:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()


async def test_what_is_closed_is_forgotten() -> None:
    async with Stage(1) as stage:
        for _ in range(30):
            _, writer = await connect(stage)
            writer.transport.abort()
        await until(lambda: not guard(stage).open)


def test_the_usual_bound_leaves_each_stream_its_second_file() -> None:
    assert connections_allowed() >= 16
