"""Clients' connections with bounds: on their number, and on how long each may keep us waiting.

aiohttp closes connections that are idle between requests. What it lacks is here: bounds on the time
and size of a request's head, on the pace of its body, on clients that do not read, and on how many
connections there are. One timer looks at a tenth of all connections at a time.
"""

import asyncio
import logging
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from itertools import islice
from typing import Any, Final, cast

from aiohttp import web

from llumnix.frontend.http.half_close import HalfClosable
from llumnix.frontend.http.patience import Late, Patience, Progress, Seen

log = logging.getLogger(__name__)

_ROUND_S: Final = 1.0
_SLICES: Final = 10
_AT_A_TIME: Final = 25
_LAST_WORD_S: Final = 5.0
_UNSENT_BYTES: Final = 128 * 1024
_TCP_INFO_BYTES: Final = 192
_ACKNOWLEDGED: Final = struct.Struct("=120xQ")
"""`tcpi_bytes_acked`, in Linux's `struct tcp_info`."""


def _response(status: str, message: str) -> bytes:
    body = b'{"error":{"message":"%b","type":"RequestError","param":null,"code":null}}' % (
        message.encode()
    )
    return (
        b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Retry-After: 1\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)
    )


_TOO_SLOW: Final = _response("408 Request Timeout", "the request came too slowly")
_TOO_LARGE: Final = _response(
    "431 Request Header Fields Too Large", "the request's head is too large"
)
_FULL: Final = _response("503 Service Unavailable", "too many connections; try again later")


class SlowBody(web.RequestPayloadError):
    """A request's body has not arrived in time."""


class Guard:
    """All connections of one listening socket. `limit` bounds their number.

    `turned_away` counts what became of those that broke a bound. Use `watch` while serving.
    """

    def __init__(self, patience: Patience, limit: int) -> None:
        self.patience = patience
        self.limit = limit
        self.turned_away: Counter[str] = Counter()
        self.open: set[GuardedConnection] = set()
        self._waiting: dict[GuardedConnection, None] = {}
        self._task: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin to look after the connections."""
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking after them."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def admit(self, connection: "GuardedConnection") -> bool:
        """Add a connection; return False if there is no room, not even by closing an idle one."""
        if len(self.open) >= self.limit:
            longest_idle = next(iter(self._waiting), None)
            if longest_idle is None:
                self._count("full")
                return False
            self._waiting.pop(longest_idle)
            self._count("idle")
            longest_idle.cut()
        self.open.add(connection)
        self._waiting[connection] = None
        return True

    def waits(self, connection: "GuardedConnection", *, waits: bool) -> None:
        """Note whether a connection is idle: one that may be closed to make room."""
        if waits:
            self._waiting.setdefault(connection)
        else:
            self._waiting.pop(connection, None)

    def forget(self, connection: "GuardedConnection") -> None:
        """Remove a connection that is closed."""
        self.open.discard(connection)
        self._waiting.pop(connection, None)

    def late(self, connection: "GuardedConnection", late: Late) -> None:
        """Count a connection that was too slow."""
        self._count(late.value)
        log.debug("client_too_slow at=%s peer=%s", late.value, connection.peername)

    def _count(self, why: str) -> None:
        self.turned_away[why] += 1

    async def _watch(self) -> None:
        while True:
            everyone = iter(tuple(self.open))
            share = len(self.open) // _SLICES + 1
            for _ in range(_SLICES):
                await asyncio.sleep(_ROUND_S / _SLICES)
                for number, connection in enumerate(islice(everyone, share)):
                    connection.look(time.monotonic())
                    if number % _AT_A_TIME == _AT_A_TIME - 1:
                        await asyncio.sleep(0)  # thousands may be late at once


class GuardedConnection(HalfClosable):
    """One client's connection."""

    def __init__(self, guard: Guard, server: Any, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._guard = guard
        self._progress = Progress(guard.patience, time.monotonic())
        self._slow: tuple[web.BaseRequest, float] | None = None
        self._admitted = False
        # aiohttp forgets a transport that it closes, even if its client never takes the rest.
        self._open: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, or turn it away (called by the event loop)."""
        super().connection_made(transport)
        self._open = cast("asyncio.Transport", transport)
        _bound_unsent(self._open)
        self._admitted = self._guard.admit(self)
        if not self._admitted:
            self._turn_away(_FULL)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection (called by the event loop)."""
        self._guard.forget(self)
        self._open = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count bytes, then parse them (called by the event loop)."""
        if not self._admitted:
            return
        if not self._is_waiting():
            self._progress.received(len(data), 0.0, in_request=True)
            super().data_received(data)
            return
        now_s = time.monotonic()
        fits = self._progress.received(len(data), now_s, in_request=False)
        super().data_received(data)
        if not self._is_waiting():
            self._progress.began(now_s)
            self._guard.waits(self, waits=False)
        elif not fits:
            self._guard.turned_away["head size"] += 1
            self._turn_away(_TOO_LARGE)

    def look(self, now_s: float) -> None:
        """Cut the connection if its client takes too long."""
        transport = self._open
        if transport is None:
            return
        waiting = self._is_waiting()
        self._guard.waits(self, waits=waiting)
        unsent_bytes = transport.get_write_buffer_size()
        request = self._current_request
        seen = Seen(
            in_request=not waiting,
            # An upgraded connection has no more bodies; whoever serves it has its own bounds.
            body_whole=request is None or self._upgraded or request.content.is_eof(),
            reading=transport.is_reading(),
            unsent_bytes=unsent_bytes,
            acknowledged_bytes=_acknowledged(transport) if unsent_bytes else 0,
        )
        late = self._progress.late(seen, now_s)
        if late is Late.BODY and request is not None:
            self._refuse_body(request, now_s)
        elif late is not None:
            self._guard.late(self, late)
            if late is Late.HEAD and self._progress.head_begun:
                self._turn_away(_TOO_SLOW)
            else:
                self.cut()

    def cut(self) -> None:
        """Close the connection at once; a request that is being served is cancelled."""
        if self._open is not None:
            self._open.abort()

    def _is_waiting(self) -> bool:
        """Whether a request's head is expected; not while the rest of a body is thrown away."""
        if self._messages:
            return False
        waiter = self._waiter
        return not self._request_count or (waiter is not None and not waiter.done())

    def _refuse_body(self, request: web.BaseRequest, now_s: float) -> None:
        """Let the handler answer; one that does not is cut off a little later."""
        if self._slow is None or self._slow[0] is not request:
            self._slow = (request, now_s)
            self._guard.late(self, Late.BODY)
            self.close()  # once the handler has answered
            request.content.set_exception(SlowBody("it came too slowly"))
        elif now_s - self._slow[1] > _LAST_WORD_S:
            self.cut()

    def _turn_away(self, response: bytes) -> None:
        if self._open is not None:
            self._open.write(response)
        self.force_close()


def _bound_unsent(transport: asyncio.Transport) -> None:
    """Let the kernel take little more than the client reads, else megabytes wait for deaf ones."""
    own = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def _acknowledged(transport: asyncio.Transport) -> int:
    """Return how much the peer has acknowledged: the only sign of whether it reads at all."""
    own = transport.get_extra_info("socket")
    try:
        info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(_ACKNOWLEDGED.unpack_from(info)[0])
    except (OSError, AttributeError, struct.error):
        return -transport.get_write_buffer_size()
