"""One leg of a stream as bytes: what the instance sends goes in, what the client gets comes out.

No I/O, so that every way of cutting a stream into pieces can be tested. Per token: one search for a
redirect, one entry in the ledger, one cut of token ids.
"""

from collections.abc import Callable

from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.graft import Grafter
from llumnix.frontend.splicing.ledger import Ledger
from llumnix.frontend.splicing.splice import Splicer
from llumnix.frontend.splicing.sse import ClaimRefused, Redirect
from llumnix.instances.instance import Instance

Hide = Callable[[bytes], bytes]
"""Takes out of events the token ids that we asked for and the client did not."""


def as_it_is(data: bytes) -> bytes:
    """Hide nothing: the client asked for the ids itself, or nobody did."""
    return data


def hider(instance: Instance, *, asked: bool) -> Hide:
    """Say how to hide token ids, if we have `asked` this instance for them."""
    if not asked:
        return as_it_is
    return sse.with_token_ids_nulled if instance.vllm else sse.without_token_ids


class Overlong(Exception):  # noqa: N818 - the instance's fault, acted on by the relay
    """The instance sent a single event beyond the limit."""


class LegFilter:
    """Forwards whole events only, so that a stream can be cut over at any moment.

    `joiner` joins it to what the client has: a Splicer if it replays that, a Grafter if it goes on
    from it, None if there is nothing yet. `let_go` is set once the instance says that the request
    went on elsewhere, or that it does not take it; what it sends from then on is swallowed.
    """

    def __init__(
        self,
        joiner: Splicer | Grafter | None,
        *,
        plugged: bool,
        hide: Hide,
        event_limit_bytes: int,
    ) -> None:
        self.ledger = Ledger()
        self.let_go: Redirect | ClaimRefused | None = None
        self._joiner = joiner
        self._plugged = plugged
        self._hide = hide
        self._limit = event_limit_bytes
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Give what the client gets for these bytes. Raises Diverged or Overlong."""
        if self.let_go is not None:
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
        if self._plugged and sse.lets_go(data):
            data, self.let_go = sse.until_let_go(data)
        joiner = self._joiner
        if isinstance(joiner, Grafter):
            data = joiner.feed(data)
        self.ledger.add(data)
        if isinstance(joiner, Splicer):
            data = joiner.relabel(data) if joiner.caught_up else joiner.feed(data)
        return self._hide(data)

    @property
    def grafted(self) -> bool:
        """Say whether the ledger begins after what the client has, rather than with it."""
        return isinstance(self._joiner, Grafter)

    @property
    def over(self) -> bool:
        """Say whether nothing more is to be had, whatever the instance may still send."""
        complete = isinstance(self._joiner, Grafter) and self._joiner.ended
        return complete or self.let_go is not None

    def end(self, *, cut_off: bool) -> bytes | None:
        """Take note that the connection is over (`cut_off`: by an error).

        Gives what of the stream is left to send, or None when it ended too early. A server without
        our plugin need not say [DONE]: its HTTP body being complete must do.
        """
        done = sse.ends_with_done(self._rest or self.ledger.last)
        return self._rest if done or not (cut_off or self._plugged) else None
