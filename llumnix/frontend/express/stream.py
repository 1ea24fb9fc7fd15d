"""A stream in answer to an express request: written straight to the connection."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError
from multidict import CIMultiDict

from llumnix.frontend.express.response import beginning
from llumnix.frontend.http.client import BACKLOG_BYTES, plain_socket

if TYPE_CHECKING:
    from llumnix.frontend.express.journey import Journey

_DRAINED_BYTES = 64 * 1024


class Wire(Protocol):
    """The client's connection."""

    @property
    def wire(self) -> asyncio.Transport | None:
        """The transport; None once the connection is closed."""

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written. Raises ConnectionError."""


class Client(Wire, Protocol):
    """The connection that a journey began on."""

    def finished(self, journey: "Journey", *, close: bool) -> None:
        """Note that the response has been sent; `close` the connection after it."""


class ExpressStream:
    """See `ClientStream`. The head leaves with the first bytes, in one packet."""

    __slots__ = ("_head", "_wire", "begun")

    def __init__(self, wire: Wire) -> None:
        self.begun = False
        self._wire = wire
        self._head = b""

    @property
    def flows(self) -> bool:
        """Whether tokens may be pushed."""
        transport = self._wire.wire
        return (
            self.begun
            and transport is not None
            and transport.get_write_buffer_size() < BACKLOG_BYTES
        )

    @property
    def socket(self) -> int | None:
        """The socket, if it may be written to directly."""
        return None if self._head else plain_socket(self._wire.wire)

    async def begin(self, status: int, headers: CIMultiDict[str]) -> None:
        """Send status and headers, with the first bytes."""
        self._head = beginning(status, headers)
        self.begun = True

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while too many are in flight."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data))
        transport = self._wire.wire
        if transport is not None and transport.get_write_buffer_size() > _DRAINED_BYTES:
            await self._wire.drained()

    def push(self, data: bytes) -> None:
        """Send bytes now, as one chunk."""
        self.push_raw(b"%x\r\n%b\r\n" % (len(data), data))

    def push_raw(self, data: bytes) -> None:
        """Send bytes that are framed already."""
        transport = self._wire.wire
        if transport is not None:
            transport.write(self._with_head(data))

    async def end(self) -> web.StreamResponse:
        """End the stream."""
        self._write(b"0\r\n\r\n")
        return ENDED

    def cut(self) -> None:
        """Abort the connection."""
        transport = self._wire.wire
        if transport is not None:
            transport.abort()

    def _write(self, data: bytes) -> None:
        transport = self._wire.wire
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("Cannot write to closing transport")
        transport.write(self._with_head(data))

    def _with_head(self, data: bytes) -> bytes:
        if not self._head:
            return data
        head, self._head = self._head, b""
        return head + data


ENDED = web.StreamResponse()
"""Stands for a response that has been sent."""
