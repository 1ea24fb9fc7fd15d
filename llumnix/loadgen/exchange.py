"""One HTTP/1.1 exchange, as a load generator needs it: each read timed, nothing parsed meanwhile.

A streamed response arrives in one small read per token, and the time a client spends on a read is
taken from the fleet it measures (on the same machine) and added to the measurement. Here a read
costs an append and a clock reading: 12 µs per token including the kernel, against 22 µs with a
general HTTP client's stream reader. The response is parsed after the run (`reply`). Each exchange
has its own connection, which the server closes to end it.
"""

import asyncio
import functools
import ssl
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a server, parsed from `http://host:8000/prefix`, with its Host header."""

    host: str
    port: int
    tls: bool
    prefix: str
    host_header: str

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Parse a base URL, with or without the `/v1` of OpenAI clients; raises ValueError."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a URL such as http://localhost:8000")
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, tls, prefix, parts.netloc.rpartition("@")[2])

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"{'https' if self.tls else 'http'}://{self.host_header}{self.prefix}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """The response: all bytes, and for each read its time and where it ended in them.

    Times are those of `time.monotonic`. `error` says why it ended, if the server did not end it.
    """

    raw: bytes
    read_times_s: "array[float]"
    read_ends: "array[int]"
    error: str = ""


class _Reading(asyncio.Protocol):
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.times_s = array("d")
        self.error = ""
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.times_s.append(time.monotonic())
        self.parts.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.error = f"the connection broke: {exc}"
        if not self.ended.done():
            self.ended.set_result(None)

    def exchange(self, error: str) -> Exchange:
        ends, total = array("q"), 0
        for part in self.parts:
            total += len(part)
            ends.append(total)
        return Exchange(b"".join(self.parts), self.times_s, ends, error or self.error)


async def post(
    endpoint: Endpoint, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
) -> Exchange:
    """Post and read until the server closes, for at most `timeout_s` (wall) in all.

    Failures of the network or the server are not raised: they are in the exchange's `error`.
    """
    loop = asyncio.get_running_loop()
    reading = _Reading()
    request = _request(endpoint, path, headers, body)
    error = ""
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_connection(
                lambda: reading,
                endpoint.host,
                endpoint.port,
                ssl=_tls() if endpoint.tls else None,
            )
            try:
                transport.write(request)
                await reading.ended
            finally:
                transport.abort()
    except TimeoutError:
        error = f"the response did not end within {timeout_s:g} s"
    except OSError as failure:
        error = f"cannot connect to {endpoint.url}: {failure}"
    return reading.exchange(error)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads all certificates: once


def _request(endpoint: Endpoint, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"POST {endpoint.prefix}{path} HTTP/1.1",
        f"Host: {endpoint.host_header}",
        "Connection: close",
        "Accept-Encoding: identity",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError(f"a header must be one line: {dict(headers)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
