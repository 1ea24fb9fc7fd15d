"""The client's end of a stream."""

import asyncio
from typing import Protocol

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

BACKLOG_BYTES = 256 * 1024


class ClientStream(Protocol):
    """Writes a stream to its client, which may read more slowly than the frontend writes.

    `push` serves single tokens: no task switch, straight to the socket. It is allowed while
    `flows`; otherwise `write` waits for the client. Both raise ConnectionError, or cancel the
    handler, once the client has disconnected.
    """

    @property
    def begun(self) -> bool:
        """Whether status and headers have been sent."""

    @property
    def flows(self) -> bool:
        """Whether tokens may be pushed: begun, chunked, and the client keeps up."""

    @property
    def socket(self) -> int | None:
        """The socket, if bytes may be written to it past the transport: in plain, and none wait."""

    async def begin(self, status: int, headers: CIMultiDict[str]) -> None:
        """Send status and headers."""

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while too many are in flight."""

    def push(self, data: bytes) -> None:
        """Send bytes now, as one chunk of the HTTP body."""

    def push_raw(self, data: bytes) -> None:
        """Send bytes that are framed already."""

    async def end(self) -> web.StreamResponse:
        """End the stream."""

    def cut(self) -> None:
        """Abort the connection of a client that has stopped reading. Cancels the handler."""


def plain_socket(transport: asyncio.Transport | None) -> int | None:
    """Return a transport's socket, if it may be written to directly: see `ClientStream.socket`."""
    if transport is None or transport.is_closing() or transport.get_write_buffer_size():
        return None
    if transport.get_extra_info("ssl_object") is not None:
        return None
    number: int = transport.get_extra_info("socket").fileno()
    return number if number >= 0 else None


class AiohttpStream:
    """A stream in answer to a request that aiohttp has read; see `ClientStream`."""

    def __init__(self, http: web.Request) -> None:
        self._http = http
        self._response: web.StreamResponse | None = None
        self._pushes = http.version >= HttpVersion11

    @property
    def begun(self) -> bool:
        """Whether status and headers have been sent."""
        return self._response is not None

    @property
    def flows(self) -> bool:
        """Whether tokens may be pushed: begun, chunked, and the client keeps up."""
        transport = self._http.transport
        return (
            self._response is not None
            and self._pushes
            and transport is not None
            and transport.get_write_buffer_size() < BACKLOG_BYTES
        )

    @property
    def socket(self) -> int | None:
        """The socket, if bytes may be written to it past the transport: in plain, and none wait."""
        return plain_socket(self._http.transport)

    async def begin(self, status: int, headers: CIMultiDict[str]) -> None:
        """Send status and headers."""
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(self._http)
        self._response = response

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while too many are in flight."""
        assert self._response is not None, "begin must come first"
        await self._response.write(data)

    def push(self, data: bytes) -> None:
        """Send bytes now, as one chunk of the HTTP body."""
        if self._http.transport is not None:
            self._http.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def push_raw(self, data: bytes) -> None:
        """Send bytes that are framed already."""
        if self._http.transport is not None:
            self._http.transport.write(data)

    async def end(self) -> web.StreamResponse:
        """End the stream."""
        assert self._response is not None, "begin must come first"
        await self._response.write_eof()
        return self._response

    def cut(self) -> None:
        """Abort the connection of a client that has stopped reading. Cancels the handler."""
        if self._http.transport is not None:
            self._http.transport.abort()
