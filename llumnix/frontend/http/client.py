"""The client's end of a stream."""

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

_BACKLOG_BYTES = 256 * 1024


class ClientStream:
    """Writes a stream to its client, which may read more slowly than we write.

    `push` is the way of single tokens: no task switch, straight to the socket. It is allowed while
    `flows`; otherwise `write` waits for the client. Both raise ConnectionError, or cancel the
    handler, when the client has left.
    """

    def __init__(self, http: web.Request) -> None:
        self._http = http
        self._response: web.StreamResponse | None = None
        self._pushes = http.version >= HttpVersion11

    @property
    def begun(self) -> bool:
        """Say whether status and headers have been sent."""
        return self._response is not None

    @property
    def flows(self) -> bool:
        """Say whether tokens may be pushed: begun, the client keeps up, and it speaks chunks."""
        transport = self._http.transport
        return (
            self._response is not None
            and self._pushes
            and transport is not None
            and transport.get_write_buffer_size() < _BACKLOG_BYTES
        )

    async def begin(self, status: int, headers: CIMultiDict[str]) -> None:
        """Send status and headers."""
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(self._http)
        self._response = response

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait while too many are on their way."""
        assert self._response is not None, "begin comes first"
        await self._response.write(data)

    def push(self, data: bytes) -> None:
        """Send bytes now, as one chunk of the HTTP body."""
        if self._http.transport is not None:
            self._http.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> web.StreamResponse:
        """End the stream."""
        assert self._response is not None, "begin comes first"
        await self._response.write_eof()
        return self._response

    def cut(self) -> None:
        """Cut the connection: the client has not read for too long. Cancels the handler."""
        if self._http.transport is not None:
            self._http.transport.abort()
