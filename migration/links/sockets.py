"""A raw non-blocking socket in an event loop: scatter reads, gather writes, no copies.

Raw sockets, not asyncio's streams, because block payloads must go straight from and to the engine's
memory, and because the place of a byte must be decided at the very moment it is read: the memory
may have been freed in the meantime. Every wait ends: with data, by its timeout, or by `close`.
Works on asyncio and uvloop alike (their transports are never used on these sockets).
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from migration.errors import CutOff, LinkError

MAX_PARTS = 64
SLICE_BYTES = 256 << 10
"""Most bytes read or checksummed without a break: the engine shares this event loop."""
BREATH_BYTES = 1 << 20
"""After so many bytes the loop gets a turn even if more could be done at once."""


class Sink(Protocol):
    """Where received bytes go."""

    def window(self, most: int) -> list[memoryview]:
        """Return memory for the next bytes, `most` at most; called right before each read."""

    def took(self, n_bytes: int) -> None:
        """Note that the window's first bytes were filled."""


class Buffer:
    """A sink that keeps what arrives."""

    def __init__(self, n_bytes: int) -> None:
        self.data = bytearray(n_bytes)
        self._left = memoryview(self.data)

    def window(self, most: int) -> list[memoryview]:
        """See Sink."""
        return [self._left[:most]]

    def took(self, n_bytes: int) -> None:
        """See Sink."""
        self._left = self._left[n_bytes:]


class Wire:
    """One connected socket. Errors and timeouts raise LinkError; after one, close it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._waits: set[asyncio.Future[None]] = set()
        self._blocked = False
        self.closed = False

    async def receive(self, n_bytes: int, sink: Sink, timeout_s: float | None) -> None:
        """Receive exactly `n_bytes`; `timeout_s` bounds each pause, None waits indefinitely.

        Raises LinkError, and CutOff when the peer closed after the first byte.
        """
        left, breath = n_bytes, 0
        while left:
            try:
                got = self._recv(sink.window(min(left, SLICE_BYTES)))
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader, timeout_s)
                continue
            if not got:
                raise LinkError("end of stream") if left == n_bytes else CutOff("cut off")
            sink.took(got)
            left, breath = left - got, breath + got
            if breath >= BREATH_BYTES:
                breath = 0
                await asyncio.sleep(0)

    async def read(self, n_bytes: int, timeout_s: float | None) -> bytes:
        """Receive exactly `n_bytes` and return them."""
        buffer = Buffer(n_bytes)
        await self.receive(n_bytes, buffer, timeout_s)
        return bytes(buffer.data)

    async def send(self, parts: Sequence[memoryview | bytes], timeout_s: float) -> None:
        """Send all parts in order; `timeout_s` bounds each pause."""
        views = [memoryview(part) for part in parts if len(part)]
        while views := self.send_now(views):
            if self._blocked:
                await self._ready(self._loop.add_writer, self._loop.remove_writer, timeout_s)
            else:
                await asyncio.sleep(0)

    def send_now(self, views: list[memoryview]) -> list[memoryview]:
        """Send what the socket takes at once, within limits; return what is left."""
        breath, self._blocked = 0, False
        while views and breath < BREATH_BYTES:
            try:
                sent = self._send(views[:MAX_PARTS])
            except BlockingIOError:
                self._blocked = True
                break
            breath += sent
            views = _without(views, sent)
        return views

    def close(self) -> None:
        """Close the socket and end every wait on it."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        for wait in self._waits:
            if not wait.done():
                wait.set_exception(LinkError("closed"))
        with contextlib.suppress(OSError):
            self._sock.close()

    def _recv(self, window: list[memoryview]) -> int:
        if self.closed:
            raise LinkError("closed")
        try:
            return self._sock.recvmsg_into(window)[0]
        except BlockingIOError:
            raise
        except OSError as error:
            raise LinkError(str(error)) from error

    def _send(self, views: list[memoryview]) -> int:
        if self.closed:
            raise LinkError("closed")
        try:
            return self._sock.sendmsg(views)
        except BlockingIOError:
            raise
        except OSError as error:
            raise LinkError(str(error)) from error

    async def _ready(
        self,
        add: Callable[..., object],
        remove: Callable[[int], object],
        timeout_s: float | None,
    ) -> None:
        wait: asyncio.Future[None] = self._loop.create_future()
        self._waits.add(wait)
        add(self._fd, _wake, wait)
        try:
            async with asyncio.timeout(timeout_s):
                await wait
        except TimeoutError as error:
            raise LinkError("timed out") from error
        finally:
            self._waits.discard(wait)
            if not self.closed:
                remove(self._fd)


def _wake(wait: "asyncio.Future[None]") -> None:
    if not wait.done():
        wait.set_result(None)


def _without(views: list[memoryview], sent: int) -> list[memoryview]:
    """Drop the first `sent` bytes."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []


async def dial(host: str, port: int, timeout_s: float) -> Wire:
    """Connect. Raises LinkError when the peer does not answer in time."""
    return Wire(await connected(host, port, timeout_s))


async def connected(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a connected socket. Raises LinkError when the peer does not answer in time."""
    loop = asyncio.get_running_loop()
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
    except (OSError, TimeoutError) as error:
        if sock is not None:
            sock.close()
        raise LinkError(f"cannot connect to {host}:{port}: {error or 'timed out'}") from error
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    return sock
