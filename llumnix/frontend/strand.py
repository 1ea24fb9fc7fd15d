"""One leg of a stream as bytes: what the instance sends goes in, what the client gets comes out.

No I/O, so that every way of cutting a stream into pieces can be tested. Per token: one search for a
redirect, one entry in the ledger, one cut of token ids.
"""

from llumnix.frontend import sse
from llumnix.frontend.ledger import Ledger
from llumnix.frontend.splice import Splicer
from llumnix.frontend.sse import Redirect
from llumnix.frontend.transcript import Transcript


class Overlong(Exception):  # noqa: N818 - the instance's fault, acted on by the relay
    """The instance sent a single event beyond the limit."""


class Strand:
    """Forwards whole events only, so that a stream can be cut over at any moment.

    `had` is what the client has from earlier legs. `redirect` is set once the instance says that
    the request went on elsewhere; what it sends from then on is swallowed.
    """

    def __init__(
        self, had: Transcript, *, plugged: bool, hides_ids: bool, event_limit_bytes: int
    ) -> None:
        self.ledger = Ledger()
        self.redirect: Redirect | None = None
        self._splicer = Splicer(had) if had.events else None
        self._plugged = plugged
        self._hides_ids = hides_ids and plugged
        self._limit = event_limit_bytes
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Give what the client gets for these bytes. Raises Diverged or Overlong."""
        if self.redirect is not None:
            return b""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(b"\n\n"):
            whole = sse.complete(data)
            data, self._rest = data[:whole], data[whole:]
            if len(self._rest) > self._limit:
                raise Overlong(f"an event beyond {self._limit} bytes")
            if not data:
                return b""
        if self._plugged and sse.REDIRECT_MARK in data:
            data, self.redirect = sse.until_redirect(data)
        self.ledger.add(data)
        splicer = self._splicer
        if splicer is not None:
            data = splicer.relabel(data) if splicer.caught_up else splicer.feed(data)
        return sse.without_token_ids(data) if self._hides_ids else data

    def end(self, *, cut_off: bool) -> bytes | None:
        """Take note that the connection is over (`cut_off`: by an error).

        Gives what of the stream is left to send, or None when it ended too early. A server without
        our plugin need not say [DONE]: its HTTP body being complete must do.
        """
        done = sse.ends_with_done(self._rest or self.ledger.last)
        return self._rest if done or not (cut_off or self._plugged) else None
