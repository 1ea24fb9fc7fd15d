"""Connections to instances: one request at a time each, kept alive for the next."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import cast

from llumnix.frontend.http.response import BadResponse, Head, ResponseReader
from llumnix.instances.endpoints.endpoint import Endpoint
from llumnix.instances.endpoints.tls import ClientContext

# Below the five seconds after which uvicorn closes idle connections on its side.
IDLE_S = 4.0
_IDLE_PER_HOST = 512
_PAUSE_BYTES = 256 * 1024
_COPIED_BYTES = 256 * 1024
"""A smaller body is copied behind its head, so that both leave in one packet."""
_HANDSHAKES_PER_HOST = 8

Sink = Callable[[bytes], bool]
"""Takes body bytes as they are read from the socket; returns False to stop."""


class InstanceUnreachable(OSError):  # noqa: N818 - an outcome, acted on by the route
    """No connection could be opened."""


class Connection(asyncio.Protocol):
    """A connection and the response being read from it."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.closed = False
        self.let_go: Callable[[], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._broken: OSError | None = None
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], None] | None = None
        self._idle = True

    def ask(self, *parts: bytes) -> None:
        """Send a request, in one part or more; only one at a time."""
        assert self._transport is not None
        self._reader = ResponseReader()
        self._idle = False
        for part in parts:
            self._transport.write(part)

    async def head(self) -> Head:
        """Wait for the response's head. Raises OSError."""
        while self._reader.head is None:
            await self._news()
        return self._reader.head

    async def read(self) -> bytes:
        """Wait for body bytes; b"" at the end. Raises OSError when it is cut off."""
        while not self._body:
            if self._reader.done:
                return b""
            await self._news()
        return self.take()

    async def pour(self, sink: Sink) -> None:
        """Pass body bytes to `sink` as they arrive, until it returns False or the response is over.

        Never raises for a broken connection: the next `read` does.
        """
        if self._body or self._reader.done or self._broken is not None:
            return
        self._sink = sink
        try:
            await self._wait()
        finally:
            self._sink = None

    def lend(self) -> tuple[int, bytes] | None:
        """Lend the socket to another reader, with what was read of the next chunk, if possible.

        It is possible between the chunks of a response without TLS. Until `take_back` nothing is
        read here; set `let_go` to what makes the other reader leave the socket before it is closed.
        """
        transport, raw = self._transport, self._reader.between_chunks()
        if self._body or self.closed or raw is None or transport is None:
            return None
        if transport.is_closing() or transport.get_extra_info("ssl_object") is not None:
            return None
        own = transport.get_extra_info("socket")
        transport.pause_reading()
        self._reader.forget_rest()
        return own.fileno(), raw

    async def lent(self) -> None:
        """Wait until the connection is closed here, or `wake` says that the reader has stopped."""
        if not self.closed:
            await self._wait()

    def wake(self) -> None:
        """End the wait of whoever has lent the socket."""
        self._wake()

    def take_back(self, raw: bytes) -> None:
        """Read on here; `raw` is what was read and not used."""
        self.let_go = None
        if self.closed or self._transport is None:
            return
        if raw:
            self.data_received(raw)
        if not self.closed and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def reusable(self) -> bool:
        """Whether the response is over and the connection can be reused."""
        head = self._reader.head
        done = self._reader.done and not self._body
        return done and head is not None and head.keeps and not self.closed

    def rest(self, tls: ClientContext | None = None) -> None:
        """Note that no response is expected for now; `tls` is what later connections will use."""
        self._idle = True
        if tls is not None and self._transport is not None:
            tls.remember(self._transport.get_extra_info("ssl_object"))
        self.idle_since = time.monotonic()

    def close(self) -> None:
        """Close at once; a pending read raises an error."""
        if self.let_go is not None:
            self.let_go()
        self._break(BadResponse("closed by us"))
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport (called by the event loop)."""
        # Under uvloop it is no instance of this class, but has every method used here.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes (called by the event loop)."""
        if self._idle:  # nothing was requested
            self.close()
            return
        try:
            body = self._reader.feed(data)
        except BadResponse as error:
            self._break(error)
            self.close()
            return
        if self._sink is not None and not self._reader.done:
            if not body or self._sink(body):
                return
            self._sink = None
        elif body:
            self._keep(body)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Record that the connection closed (called by the event loop)."""
        try:
            self._reader.end()
        except BadResponse as error:
            self._break(exc if isinstance(exc, OSError) else error)
        self.closed = True
        self._wake()

    def _keep(self, body: bytes) -> None:
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > _PAUSE_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def _break(self, error: OSError) -> None:
        self.closed = True
        self._broken = self._broken or error
        self._wake()

    def tell(self, listener: Callable[[], None] | None) -> None:
        """Call `listener` whenever something has come, in place of waiting for it."""
        self._listener = listener

    def now(self) -> tuple[Head | None, OSError | None]:
        """Return the response's head, if it is there, and what broke the connection, if it is."""
        return self._reader.head, self._broken

    @property
    def over(self) -> bool:
        """Whether the whole response is there."""
        return self._reader.done

    @property
    def has_body(self) -> bool:
        """Whether body bytes are there to be taken."""
        return bool(self._body)

    def take(self) -> bytes:
        """Take the body bytes that are there."""
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if self._body_bytes > _PAUSE_BYTES and self._transport is not None:
            self._transport.resume_reading()
        self._body_bytes = 0
        return data

    def _wake(self) -> None:
        if self._listener is not None:
            self._listener()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _news(self) -> None:
        if self._broken is not None:
            raise self._broken
        await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class ConnectionPool:
    """Opens connections, and keeps those that can be reused for the next request."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[Endpoint, list[Connection]] = {}
        self._handshakes: dict[Endpoint, asyncio.Semaphore] = {}
        self._reaper: asyncio.TimerHandle | None = None

    async def ask(
        self, endpoint: Endpoint, path: str, headers: Mapping[str, str], body: bytes
    ) -> Connection:
        """Post to a server. Raises InstanceUnreachable if no connection can be opened in time."""
        address = endpoint.address
        connection = self.take(endpoint) or await self._connect(endpoint)
        lines = [f"POST {address.path}{path} HTTP/1.1", f"Host: {address.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        head = "\r\n".join(lines).encode("utf-8", "surrogateescape")
        if len(body) < _COPIED_BYTES:
            connection.ask(head + body)
        else:
            connection.ask(head, body)
        return connection

    def give_back(self, endpoint: Endpoint, connection: Connection) -> None:
        """Keep a connection whose response is over; close any other at once."""
        idle = self._idle.setdefault(endpoint, [])
        if connection.reusable and len(idle) < _IDLE_PER_HOST:
            connection.rest(endpoint.tls)
            idle.append(connection)
            if self._reaper is None:
                self._reaper = asyncio.get_running_loop().call_later(IDLE_S, self._reap)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()

    def take(self, endpoint: Endpoint) -> Connection | None:
        """Take an idle connection to a server, if there is one."""
        idle = self._idle.get(endpoint)
        fresh_since = time.monotonic() - IDLE_S
        while idle:
            connection = idle.pop()
            if not connection.closed and connection.idle_since > fresh_since:
                return connection
            connection.close()
        return None

    def _reap(self) -> None:
        """Close what has been idle for too long: after a burst nobody might ever take it."""
        self._reaper = None
        fresh_since = time.monotonic() - IDLE_S
        for endpoint, idle in list(self._idle.items()):
            fresh = [each for each in idle if not each.closed and each.idle_since > fresh_since]
            for connection in set(idle).difference(fresh):
                connection.close()
            if fresh:
                self._idle[endpoint] = fresh
            else:
                del self._idle[endpoint]
        if self._idle:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_S, self._reap)

    async def _connect(self, endpoint: Endpoint) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if endpoint.tls is None:
                    return await _open(endpoint)
                # Handshakes cost CPU time on both sides: a burst of them must not hold up streams.
                async with self._handshakes.setdefault(
                    endpoint, asyncio.Semaphore(_HANDSHAKES_PER_HOST)
                ):
                    return await _open(endpoint)
        except (OSError, TimeoutError) as error:
            raise InstanceUnreachable(f"{error!r}") from error


async def _open(endpoint: Endpoint) -> Connection:
    address = endpoint.address
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection,
        address.host,
        address.port,
        ssl=endpoint.tls,
        server_hostname=endpoint.server_name or None,
    )
    return connection
