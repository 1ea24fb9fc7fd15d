"""A client's connection that takes plain requests itself and leaves all others to aiohttp."""

import asyncio
import time
from contextlib import suppress
from typing import Any, Final

from aiohttp import HttpVersion, HttpVersion11

from llumnix.frontend.express.head import PlainHead
from llumnix.frontend.express.journey import Journey
from llumnix.frontend.express.lane import Lane
from llumnix.frontend.http.guarded import Guard, GuardedConnection

_HEAD_END: Final = b"\r\n\r\n"
_LONGEST_HEAD_BYTES: Final = 16 * 1024
_PIPELINED_BYTES: Final = 64 * 1024
_LARGEST_PARTIAL_BYTES: Final = 64 * 1024
"""How much of a body waits here for its rest; it does not count as held by the intake yet."""


class ExpressConnection(GuardedConnection):
    """One client's connection.

    aiohttp's parser gets a request from its first byte, or none of it. Once it has been given
    anything that does not certainly end with a whole request, it keeps the connection.
    """

    def __init__(self, guard: Guard, lane: Lane, server: Any, **settings: Any) -> None:
        super().__init__(guard, server, **settings)
        self._lane = lane
        self._journey: Journey | None = None
        self._express = True
        # A request whose head is there, and part of its body.
        self._partial: tuple[PlainHead, list[bytes]] | None = None
        self._partial_bytes = 0
        self._later = b""
        self._over: asyncio.Future[None] | None = None
        self._closing = False

    @property
    def wire(self) -> asyncio.Transport | None:
        """The transport; None once the connection is closed."""
        return self.transport

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written. Raises ConnectionError."""
        await self._drain_helper()

    def data_received(self, data: bytes) -> None:
        """Take a plain request, or leave it to aiohttp (called by the event loop)."""
        if not self._express or not self._admitted:
            super().data_received(data)
        elif self._journey is not None or self._later or self._paused:
            self._keep_for_later(data)
        elif self._partial is not None:
            self._more_of_body(data)
        elif self._force_close or self._close or not self._is_waiting():
            self._express = self._is_waiting()
            super().data_received(data)
        else:
            self._first_of_request(data)

    def finished(self, journey: Journey, *, close: bool) -> None:
        """Note that a response has been sent; `close` the connection after it."""
        assert journey is self._journey, "one at a time"
        self._journey = None
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self.transport is None:
            return
        if close or self._closing or self._close:
            self.force_close()
            return
        self._guard.waits(self, waits=True)
        self._keep_alive()
        if self._later and not self._paused:
            # Not from within the end of the request before it, however many there are.
            self._loop.call_soon(self._read_later)

    def resume_writing(self) -> None:
        """Go on with what a client has sent that had not taken its answers (by the event loop)."""
        super().resume_writing()
        if self._is_waiting():
            self._keep_alive()
            if self._later:
                self._loop.call_soon(self._read_later)

    def close(self) -> None:
        """Close the connection once the request that is being served has its response."""
        if self._journey is None:
            super().close()
        else:
            self._closing = True

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Let the request that is being served end, for so long, then close the connection."""
        if self._journey is not None:
            self._over = self._loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._over
        if self._journey is not None:
            self._journey.cancel()
        await super().shutdown(timeout)

    def look(self, now_s: float) -> None:
        """See whether the client takes too long; aiohttp's side knows how to refuse slow bodies."""
        if self._partial is not None:
            (_, pieces), self._partial = self._partial, None
            self._to_aiohttp(pieces, whole=False)
        super().look(now_s)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel what is being served (called by the event loop)."""
        super().connection_lost(exc)
        if self._journey is not None:
            self._journey.cancel()

    def _first_of_request(self, data: bytes) -> None:
        end = data.find(_HEAD_END, 0, _LONGEST_HEAD_BYTES)
        head = self._lane.heads.read(data[:end]) if end >= 0 else None
        body_bytes = len(data) - end - len(_HEAD_END)
        if head is None or body_bytes > head.length_bytes:
            self._express = False
            super().data_received(data)
            return
        path = self._lane.path(head)
        if path is not None and body_bytes < head.length_bytes <= _LARGEST_PARTIAL_BYTES:
            self._partial, self._partial_bytes = (head, [data]), len(data)
            now_s = time.monotonic()
            self._progress.received(len(data), now_s, in_request=False)
            self._progress.began(now_s)
            self._guard.waits(self, waits=False)
        elif path is None or not self._taken(head, path, data[end + len(_HEAD_END) :], data):
            # Whoever sent a whole request has left the parser where the next one begins.
            self._express = body_bytes == head.length_bytes
            super().data_received(data)

    def _more_of_body(self, data: bytes) -> None:
        assert self._partial is not None, "looked at by the caller"
        head, pieces = self._partial
        pieces.append(data)
        self._progress.received(len(data), 0.0, in_request=True)
        start = pieces[0].find(_HEAD_END) + len(_HEAD_END)
        end = start + head.length_bytes
        self._partial_bytes += len(data)
        if self._partial_bytes < end:
            return
        self._partial = None
        whole, path = b"".join(pieces), self._lane.path(head)
        if path is None or not self._taken(head, path, whole[start:end], b""):
            self._to_aiohttp(pieces, whole=len(whole) == end)
        elif len(whole) > end:
            self._keep_for_later(whole[end:])

    def _taken(self, head: PlainHead, path: str, body: bytes, fresh: bytes) -> bool:
        """Take a whole request; return whether it is one to be taken.

        `fresh` are its bytes if they are not counted yet.
        """
        lane = self._lane
        request = lane.parse(head, path, body)
        if request is None:
            return False
        holding = lane.context.intake.budget.holding()
        if not holding.grow_to(len(body)):
            return False
        if fresh:
            self._guard.waits(self, waits=False)
            self._progress.began(time.monotonic())
        self._journey = Journey(lane, self, head, request, holding)
        self._journey.begin()
        return True

    def _to_aiohttp(self, pieces: list[bytes], *, whole: bool) -> None:
        """Leave a request to aiohttp, as it was read."""
        self._express = whole
        for data in pieces:
            super().data_received(data)

    def _keep_for_later(self, data: bytes) -> None:
        self._later += data
        if len(self._later) > _PIPELINED_BYTES and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _read_later(self) -> None:
        if self._journey is not None or self._paused:
            return
        data, self._later = self._later, b""
        if self.transport is None or not data:
            return
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        self.data_received(data)

    def _keep_alive(self) -> None:
        """Start aiohttp's timer for idle connections."""
        self._keepalive = True
        close_at = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = close_at
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_at, self._process_keepalive)

    def _process_keepalive(self) -> None:
        if self._journey is None and self._partial is None and not self._paused:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None

    def _is_waiting(self) -> bool:
        return self._journey is None and self._partial is None and super()._is_waiting()

    def _may_answer(self) -> bool:
        if self._journey is not None:
            return not self._journey.begun
        return super()._may_answer()

    def _unanswered(self) -> HttpVersion | None:
        if self._journey is not None:
            return None if self._journey.begun else HttpVersion11
        return super()._unanswered()
