"""Random requests and control frames: valid ones, changed here and there, and plain noise."""

import asyncio
import json
import random
import struct
from collections import Counter
from contextlib import suppress
from typing import Any

from migration.errors import MigrationError
from migration.links import frames
from migration.links.sockets import dial

_PATHS = (
    *("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
    *("/v1/models", "/health", "/metrics", "/llumnix/fleet", "/llumnix/drain", "/llumnix/migrate"),
    *("/tokenize", "/", "//", "/%00", "/v1/../llumnix/drain", "/v1/models/%ff", "/v1/audio/speech"),
)
_METHODS = ("POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "FOO")
_HEADERS = (
    *("Content-Encoding: gzip", "Content-Encoding: br", "Content-Encoding: deflate, gzip"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Expect: 100-continue"),
    *("Content-Type: text/plain", "Content-Type: multipart/form-data; boundary=x", "Range: x"),
    *(
        "X-Request-Id: é\x00",
        "X-Llumnix-Class: nobody",
        "Connection: upgrade",
        "Upgrade: websocket",
    ),
    *("Authorization: Bearer x", "Content-Length: 0", "Content-Length: -1", "Host: a:b:c"),
    *("Origin: null", "Cookie: " + "a" * 300, "Accept-Encoding: *", "Connection: close"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e308, 10**30, "", "x", "\ud800", [], [[]], {}, [1, "a"], [None]),
    *({"a": 1}, [{"role": "user", "content": "hi"}], [{"role": 5}], [5], "m", ["m"]),
)
_FIELDS = (
    *("model", "prompt", "messages", "stream", "max_tokens", "max_completion_tokens", "stop", "n"),
    *("stream_options", "kv_transfer_params", "priority", "service_tier", "logprobs", "echo"),
    *("min_tokens", "seed", "temperature", "tools", "response_format", "best_of", "suffix"),
)
_AT_ONCE = 32
_PATIENCE_S = 20.0


def body_of(rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(200))
    fields = {name: rng.choice(_VALUES) for name in rng.sample(_FIELDS, rng.randrange(6))}
    if rng.random() < 0.5:
        fields["model"] = "m"
    raw = bytearray(json.dumps(fields).encode())
    if rng.random() < 0.2 and raw:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.1 else raw)


def request_of(rng: random.Random) -> bytes:
    """Return one request that asks for its connection to be closed, or noise."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(1, 300)) + b"\r\n\r\n"
    body = body_of(rng)
    lines = [f"{rng.choice(_METHODS)} {rng.choice(_PATHS)} HTTP/1.{rng.choice('1111110')}"]
    lines += ["Host: 127.0.0.1", "Connection: close"]
    lines += rng.sample(_HEADERS, rng.choice((0, 0, 0, 1, 2)))
    if not any("Content-Length" in line for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    raw = bytearray("\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body)
    if rng.random() < 0.1:
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


async def http_fuzz(port: int, n: int, patience_s: float) -> Counter[str]:
    """Send random requests; `hang` counts those that were neither answered nor cut in time."""
    seen: Counter[str] = Counter()
    rng = random.Random(n)
    left = iter(range(n))

    async def worker() -> None:
        for _ in left:
            raw = request_of(rng)
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                seen["refused"] += 1
                continue
            try:
                writer.write(raw)
                if rng.random() < 0.05:
                    with suppress(OSError, RuntimeError):
                        writer.write_eof()
                async with asyncio.timeout(patience_s):
                    line = await reader.readline()
                seen[line[9:12].decode("latin-1") if line else "closed"] += 1
                if line[9:10] == b"5":
                    seen[f"5xx {line[9:12].decode()}: {raw[:300]!r}"] += 1
            except TimeoutError:
                seen["hang"] += 1
            except (ConnectionError, ValueError):
                seen["closed"] += 1
            finally:
                writer.transport.abort()

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
    return seen


async def control_fuzz(host: str, port: int, secret: bytes, n: int) -> Counter[str]:
    """Send random bytes to a control port, before the handshake and after a right one."""
    seen: Counter[str] = Counter()
    rng = random.Random(n)
    left = iter(range(n))

    async def worker() -> None:
        for number in left:
            noise = rng.randbytes(rng.randrange(1, 200))
            if rng.random() < 0.5:  # a frame whose length is right
                noise = struct.pack("!I", len(noise)) + noise
            try:
                wire = await dial(host, port, _PATIENCE_S)
                try:
                    if number % 2:
                        role = rng.choice(("control", "peer", "bulk"))
                        await frames.greet(wire, secret, role, _PATIENCE_S)
                    await wire.send([noise], _PATIENCE_S)
                finally:
                    wire.close()
                seen["sent"] += 1
            except MigrationError as error:
                seen[type(error).__name__] += 1

    await asyncio.gather(*(worker() for _ in range(8)))
    return seen
