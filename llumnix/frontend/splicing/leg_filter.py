"""One leg of a stream, as bytes: the instance's output in, the client's stream out.

No I/O, so every way to split a stream into pieces can be tested. Per token: one search for a
redirect, one entry in the ledger, one removal of token ids.
"""

from collections.abc import Callable

from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.graft import Grafter
from llumnix.frontend.splicing.ledger import Ledger
from llumnix.frontend.splicing.splice import Splicer
from llumnix.frontend.splicing.sse import (
    ERROR_MARK,
    STOPPED_MARK,
    ClaimRefused,
    Redirect,
    ServerError,
)
from llumnix.instances.instance import Instance

Hide = Callable[[bytes], bytes]
"""Removes from events the token ids that the client did not ask for."""


def as_it_is(data: bytes) -> bytes:
    """Hide nothing: the client asked for the ids itself, or no one did."""
    return data


def hider(instance: Instance, *, asked: bool) -> Hide:
    """Return how to hide token ids, if the frontend `asked` this instance for them."""
    if not asked:
        return as_it_is
    return sse.with_token_ids_nulled if instance.vllm else sse.without_token_ids


class Overlong(Exception):  # noqa: N818 - the instance's fault, acted on by the relay
    """The instance sent a single event above the limit."""


class LegFilter:
    """Forwards only whole events, so that a stream can switch instances at any moment.

    `joiner` joins it to what the client has: a Splicer if it replays that, a Grafter if it
    continues from it, None if there is nothing yet. `let_go` is set once the instance says that the
    request continues elsewhere, or that it refuses it, `error` once it says that it failed it;
    everything it sends afterwards is dropped.
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
        self.error: ServerError | None = None
        self._resigned = False
        self._ended = False
        self._joiner = joiner
        self._plugged = plugged
        self._hide = hide
        self._limit = event_limit_bytes
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the client's part of these bytes. Raises Diverged or Overlong."""
        if self._ended:
            return b""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(b"\n\n"):
            whole = sse.complete(data)
            data, self._rest = data[:whole], data[whole:]
            if len(self._rest) > self._limit:
                raise Overlong(f"an event of more than {self._limit} bytes")
            if not data:
                return b""
        # Done for every token: the marks are searched for here, without a call.
        if self._plugged and STOPPED_MARK in data and sse.lets_go(data):
            data, self.let_go = sse.until_let_go(data)
            self._ended = self.let_go is not None
        if ERROR_MARK in data and not self._resigned:
            data, self.error = sse.until_error(data)
            self._ended = self._ended or self.error is not None
        joiner = self._joiner
        if joiner is None:
            self.ledger.add(data)
            return self._hide(data)
        if isinstance(joiner, Grafter):
            data = joiner.feed(data)
        self.ledger.add(data)
        if isinstance(joiner, Splicer):
            data = joiner.relabel(data) if joiner.caught_up else joiner.feed(data)
        return self._hide(data)

    @property
    def plain(self) -> bool:
        """Whether events are only forwarded, with token ids hidden, and none has been odd."""
        return self._joiner is None and not self._ended and not self._resigned

    def take_rest(self) -> bytes:
        """Take the beginning of an event that is not whole yet, to be fed again."""
        rest, self._rest = self._rest, b""
        return rest

    @property
    def hides(self) -> Hide:
        """How token ids are hidden."""
        return self._hide

    @property
    def plugged(self) -> bool:
        """Whether the instance may let the request go."""
        return self._plugged

    def resign(self) -> bytes:
        """Return the error, for its client: nobody can do better. What follows is passed on."""
        assert self.error is not None, "only once it has failed"
        rest, self.error, self._resigned, self._ended = self.error.rest, None, True, False
        self.ledger.add(rest)
        return rest

    @property
    def grafted(self) -> bool:
        """Whether the ledger begins after what the client has, rather than includes it."""
        return isinstance(self._joiner, Grafter)

    @property
    def over(self) -> bool:
        """Whether the leg is over, whatever the instance may still send."""
        complete = isinstance(self._joiner, Grafter) and self._joiner.ended
        return complete or self._ended

    def end(self, *, cut_off: bool) -> bytes | None:
        """Record that the connection is over (`cut_off`: by an error).

        Returns what is left to send, or None if the stream ended too early. A server without the
        plugin need not send [DONE]: a complete HTTP body is enough.
        """
        done = sse.ends_with_done(self._rest or self.ledger.last)
        return self._rest if done or not (cut_off or self._plugged) else None
