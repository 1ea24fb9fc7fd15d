"""A client's body that ends early, comes too slowly or cannot be unpacked: told to the client."""

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from llumnix.frontend.http.guarded import SlowBody
from llumnix.frontend.request.refusal import Refusal


class BrokenBody(Exception):  # noqa: N818 - what the client sent, not what we did
    """The client's body ended early or cannot be unpacked."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the body cannot be read: {error}")
        self.slow = isinstance(error, SlowBody)

    def refusal(self) -> Refusal:
        """Return the refusal that says so."""
        if self.slow:
            return Refusal(408, str(self), "slow_body")
        return Refusal(400, str(self), "invalid_body")


async def read_part(http: web.Request) -> bytes:
    """Return what has arrived of a request's body; b"" at its end. Raises BrokenBody."""
    try:
        return await http.content.readany()
    except (web.RequestPayloadError, HttpProcessingError) as error:
        http.content.feed_eof()  # else aiohttp would read on, and fail with a traceback
        http.protocol.close()  # after the answer: where the next request begins is unknown
        raise BrokenBody(error) from error
