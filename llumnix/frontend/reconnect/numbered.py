"""The client's end of a stream whose events are numbered."""

from aiohttp import web
from multidict import CIMultiDict

from llumnix.frontend.http.client import ClientStream
from llumnix.frontend.reconnect.numbering import Numbering
from llumnix.frontend.reconnect.position import Position
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.ledger import Ledger
from llumnix.frontend.splicing.splice import Diverged


class NumberedStream:
    """A `ClientStream` that numbers events, leaves out what its client has, and keeps all of them.

    It is fed the whole stream, `prefix` first: what of it is in memory. Its response begins with
    the first event that is new to the client; if there is none since the stream is not the one that
    the client has the beginning of, it has not begun (`diverged`). Then `write` raises Diverged.
    """

    def __init__(self, client: ClientStream, since: Position, prefix: bytes = b"") -> None:
        self.sent = Ledger()
        self.status = 200
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.ended = False
        self.diverged: Diverged | None = None
        self.opened = False
        """Whether there is a stream: its status and headers are known."""
        self._client = client
        self._numbering = Numbering(since)
        self._prefix = prefix

    @property
    def begun(self) -> bool:
        """Whether the response has begun, or would have if all of it were new to the client."""
        return self._client.begun or (self.opened and self.diverged is None)

    @property
    def flows(self) -> bool:
        """Whether tokens may be pushed."""
        return self._numbering.caught_up and self._client.flows

    @property
    def socket(self) -> int | None:
        """None: nothing may be written past the numbering."""
        return None

    async def begin(self, status: int, headers: CIMultiDict[str]) -> None:
        """Note status and headers, to be sent with the first new event."""
        self.status, self.headers, self.opened = status, headers, True

    async def write(self, data: bytes) -> None:
        """Send what is new of whole events. Raises Diverged like `Numbering.feed`."""
        prefix, self._prefix = self._prefix, b""
        data = self._numbered(prefix + data)
        if not data:
            return
        if not self._client.begun:
            await self._client.begin(self.status, self.headers)
        await self._client.write(data)

    def push(self, data: bytes) -> None:
        """Send events now."""
        data = self._numbered(data)
        if data:
            self._client.push(data)

    def push_raw(self, data: bytes) -> None:
        """Never called: there is no socket."""
        raise AssertionError(f"{len(data)} bytes would pass the numbering")

    async def end(self) -> web.StreamResponse:
        """End the stream."""
        self.ended = True
        if not self._client.begun:
            await self._client.begin(self.status, self.headers)
        return await self._client.end()

    def cut(self) -> None:
        """See `ClientStream`."""
        self._client.cut()

    def _numbered(self, data: bytes) -> bytes:
        said = b"".join(each for each in sse.events(data) if not _failed(each))
        if said:
            self.sent.add(said)
        try:
            return self._numbering.feed(data)
        except Diverged as error:
            self.diverged = error
            raise


def _failed(event: bytes) -> bool:
    """Whether an event says that the stream has failed: the rest may be had from elsewhere."""
    return sse.tells_error(event) and "error" in (sse.payload(event) or {})
