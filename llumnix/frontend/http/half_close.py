"""Clients that have sent all they will, and still wait for their answer.

Such a client shuts down its sending side (as `nc` does at the end of its input). To us that looks
like a client that has closed: only what we send tells them apart, since the system of one that is
gone answers with a reset. Before the response begins there is something to send that no client
minds, `100 Continue`. Once it has begun, an end of input counts as a client that has left, so that
its instance hears of it at once.
"""

import asyncio
import socket
from typing import Final

from aiohttp import HttpVersion, HttpVersion11, web

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FIRST_PROBE_S: Final = 0.3
"""Most answers to such clients are there by then."""
_PROBE_EVERY_S: Final = 5.0
_OLD_PATIENCE_S: Final = 2.0
"""How long a client that speaks HTTP/1.0, which has no `100 Continue`, is taken to be there."""
_LOOK_EVERY_S: Final = 0.2
_CLOSED: Final = 7
"""TCP_CLOSE, a state of Linux's sockets: here, that the peer has reset the connection."""


class HalfClosable(web.RequestHandler):
    """A client's connection that outlives the end of its client's input."""

    _input_ended = False
    _ended_at = 0.0

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection until the last request has its answer (called by the event loop)."""
        transport = self.transport
        if self._input_ended:  # uvloop may say so more than once
            return True
        if transport is None or not self._may_answer() or _is_tls(transport):
            return None
        self._input_ended = True
        self.close()  # after that answer
        loop = asyncio.get_running_loop()
        self._ended_at = loop.time()
        loop.call_later(_LOOK_EVERY_S, self._look, transport, self._ended_at + _FIRST_PROBE_S)
        return True

    def _may_answer(self) -> bool:
        """Whether a whole request waits for a response that has not begun."""
        request = self._current_request
        if request is None:
            # None has come, or its handler is about to start; `_look` sees the rest.
            waits = self._waiter is not None and not self._waiter.done()
            return bool(self._messages) or (bool(self._request_count) and not waits)
        return request.content.is_eof() and not _begun(request)

    def _unanswered(self) -> HttpVersion | None:
        """Return the version of a request whose response has not begun, if there is one."""
        request = self._current_request
        return request.version if request is not None and not _begun(request) else None

    def _look(self, transport: asyncio.Transport, probe_at: float) -> None:
        """See whether the client is still there, and go on looking if it is."""
        if transport.is_closing():
            return
        loop, request = asyncio.get_running_loop(), self._current_request
        whole = request is None or request.content.is_eof()
        if not whole or _is_closed(transport):
            transport.abort()
            return
        version = self._unanswered()
        if version is not None and loop.time() >= probe_at:
            if version >= HttpVersion11:
                transport.write(_CONTINUE)
                probe_at = loop.time() + _PROBE_EVERY_S
            elif loop.time() >= self._ended_at + _OLD_PATIENCE_S:
                transport.abort()
                return
        loop.call_later(_LOOK_EVERY_S, self._look, transport, probe_at)


def _begun(request: web.BaseRequest) -> bool:
    return request.writer.output_size > 0


def _is_tls(transport: asyncio.Transport) -> bool:
    return transport.get_extra_info("sslcontext") is not None


def _is_closed(transport: asyncio.Transport) -> bool:
    own = transport.get_extra_info("socket")
    try:
        state = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except (OSError, AttributeError):
        return True  # not to be told apart here, so it has left
    return bool(state[0] == _CLOSED)
