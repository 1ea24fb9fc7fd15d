"""The attacks, each in a process of its own: `python -m adversarial_parts.attacks NAME PORT N S`.

The last line is JSON: statuses by count, and what was left open. `S` is how many seconds the
frontend has to close what it should close.
"""

import asyncio
import gzip
import io
import json
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import uvloop

from adversarial_parts.fuzz import http_fuzz

Seen = Counter[str]
Send = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]
HOST = "127.0.0.1"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
STREAM = json.dumps({"model": "m", "prompt": "flood", "stream": True, "max_tokens": 10**6}).encode()
_AT_ONCE = 100
_SLACK_S = 10.0
"""Until the buffers of one that does not read are full."""
_MEGABYTE = b"x" * 2**20


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOST, port, limit=2**20)


async def status_of(reader: asyncio.StreamReader, timeout_s: float) -> str:
    """Read a status; `closed` if there is none, `open` if nothing happens in time."""
    try:
        async with asyncio.timeout(timeout_s):
            line = await reader.readline()
    except TimeoutError:
        return "open"
    except (ConnectionError, ValueError):
        return "closed"
    return line[9:12].decode("latin-1") if line.startswith(b"HTTP/1.") else "closed"


async def held(port: int, n: int, wait_s: float, sent: bytes) -> Seen:
    """Open connections, send the beginning of something, and wait until they are closed."""
    seen: Seen = Counter()
    gate = asyncio.Semaphore(_AT_ONCE)
    deadline = time.monotonic() + wait_s

    async def one() -> None:
        async with gate:
            try:
                reader, writer = await opened(port)
            except OSError:
                seen["refused"] += 1
                return
            with suppress(ConnectionError):
                writer.write(sent)
                await writer.drain()
        seen[await status_of(reader, max(1.0, deadline - time.monotonic() + 10.0))] += 1
        writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(n)))
    return seen


async def asked(port: int, n: int, at_once: int, send: Callable[..., Awaitable[None]]) -> Seen:
    """Send requests, so many at once, and note their statuses."""
    seen: Seen = Counter()
    gate = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with gate:
            reader, writer = await opened(port)
            with suppress(ConnectionError):
                await send(writer)
            seen[await status_of(reader, 90.0)] += 1
            writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(n)))
    return seen


def whole(
    body: bytes, *headers: bytes
) -> Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    lines = b"".join(header + b"\r\n" for header in headers)
    head = POST + lines + b"Content-Length: %d\r\n\r\n" % len(body)

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for at in range(0, len(body), 2**18):
            writer.write(body[at : at + 2**18])
            await writer.drain()

    return send


async def half_heads(port: int, n: int, wait_s: float) -> Seen:
    return await held(port, n, wait_s, POST)


async def half_bodies(port: int, n: int, wait_s: float) -> Seen:
    return await held(port, n, wait_s, POST + b'Content-Length: 5000\r\n\r\n{"model": "m", ')


async def idle(port: int, n: int, wait_s: float) -> Seen:
    return await held(port, n, wait_s, b"")


async def non_readers(port: int, n: int, wait_s: float) -> Seen:
    seen: Seen = Counter()
    request = POST + b"Content-Length: %d\r\n\r\n%b" % (len(STREAM), STREAM)

    async def one() -> None:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        deaf.connect((HOST, port))
        reader, writer = await asyncio.open_connection(sock=deaf)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request)
        await asyncio.sleep(wait_s + _SLACK_S)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(30.0):
                while await reader.read(2**20):
                    pass
            seen["closed"] += 1
        except TimeoutError:
            seen["open"] += 1
        except ConnectionError:
            seen["closed"] += 1
        writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(n)))
    return seen


async def nothing(_port: int, _n: int, wait_s: float) -> Seen:
    """Leave the frontend alone: what the figures are to be compared with."""
    await asyncio.sleep(wait_s)
    return Counter()


async def gzip_bombs(port: int, n: int, _wait_s: float) -> Seen:
    with io.BytesIO() as packed:
        with gzip.GzipFile(fileobj=packed, mode="wb") as file:
            for _ in range(300):
                file.write(_MEGABYTE)
        bomb = packed.getvalue()
    return await asked(port, n, 4, whole(bomb, b"Content-Encoding: gzip"))


async def json_bombs(port: int, n: int, _wait_s: float) -> Seen:
    seen: Seen = Counter()
    many = b'{"role":"user","content":"a"},' * 1_000_000
    for bomb in (
        b'{"model":"m","messages":[' + many + b'{"role":"user","content":"a"}]}',
        b"[" * (30 << 20),
        b'{"model":"m","prompt":[' + b"1," * (15 << 20) + b"1]}",
        b'{"model":"m","prompt":"' + rb"\u0041" * (5 << 20) + b'"}',
        b'{"model":"m","prompt":' + b"9" * (20 << 20) + b"}",
    ):
        seen += await asked(port, max(1, n // 5), 2, whole(bomb))
    return seen


async def large_bodies(port: int, n: int, _wait_s: float) -> Seen:
    async def chunked(writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            writer.write(b"100000\r\n" + _MEGABYTE + b"\r\n")
            await writer.drain()

    return await asked(port, n // 2, 4, whole(b"x" * 100_000_000)) + await asked(
        port, n - n // 2, 4, chunked
    )


async def header_floods(port: int, n: int, _wait_s: float) -> Seen:
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(POST)
        for number in range(2000):
            writer.write(b"X-Header-%d: %b\r\n" % (number, b"y" * 1000))
            await writer.drain()

    return await asked(port, n, 20, flood)


async def fuzz(port: int, n: int, wait_s: float) -> Seen:
    return await http_fuzz(port, n, wait_s + 10.0)


ATTACKS: dict[str, Callable[[int, int, float], Awaitable[Seen]]] = {
    each.__name__: each
    for each in (
        *(nothing, half_heads, half_bodies, idle, non_readers, gzip_bombs),
        *(json_bombs, large_bodies, header_floods, fuzz),
    )
}


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    name, port, n, wait_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])

    async def run() -> Seen:
        return await ATTACKS[name](port, n, wait_s)

    print(json.dumps(dict(uvloop.run(run()))), flush=True)


if __name__ == "__main__":
    main()
