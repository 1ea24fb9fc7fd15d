"""How long a client may take for what, and whether a connection has taken longer. Pure.

Times are seconds of any one monotonic clock.
"""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds on one connection.

    A request's head must be there `head_timeout_s` after its first byte (the first one of a
    connection: after it was opened), and have at most `head_limit_bytes`. Its body must be there
    `body_timeout_s` later, plus the time it takes at `body_rate_bytes_per_s`. A client that takes
    nothing of what it is sent for `stall_timeout_s` is gone.
    """

    head_timeout_s: float
    head_limit_bytes: int
    body_timeout_s: float
    body_rate_bytes_per_s: float
    stall_timeout_s: float


class Late(enum.Enum):
    """What a client was too slow at."""

    HEAD = "head"
    BODY = "body"
    READING = "reading"


@dataclass(frozen=True, slots=True)
class Seen:
    """A connection as it is now.

    `in_request`: a request's head is there and it is not answered yet. `body_whole`: so is its
    body. `reading`: we take what the client sends. `unsent_bytes` wait for the client, which has
    acknowledged `acknowledged_bytes` so far.
    """

    in_request: bool
    body_whole: bool
    reading: bool
    unsent_bytes: int
    acknowledged_bytes: int


class Progress:
    """How far a connection's client has come, and since when it is being waited for."""

    def __init__(self, patience: Patience, now_s: float) -> None:
        self._patience = patience
        self._head_since_s: float | None = now_s
        self._head_bytes = 0
        self._body_since_s = now_s
        self._body_bytes = 0
        self._stalled_since_s: float | None = None
        self._acknowledged_bytes = -1
        self._looked_at_s = now_s

    @property
    def head_begun(self) -> bool:
        """Whether a part of a request's head is there."""
        return self._head_bytes > 0

    def received(self, size_bytes: int, now_s: float, *, in_request: bool) -> bool:
        """Note bytes from the client; return whether a head has not become too large."""
        if in_request:
            self._body_bytes += size_bytes
            return True
        if self._head_since_s is None:
            self._head_since_s = now_s
        self._head_bytes += size_bytes
        return self._head_bytes <= self._patience.head_limit_bytes

    def began(self, now_s: float) -> None:
        """Note that a request's head is there; what came with it counts for its body."""
        self._head_since_s = None
        self._body_since_s, self._body_bytes = now_s, self._head_bytes
        self._head_bytes = 0

    def late(self, seen: Seen, now_s: float) -> Late | None:
        """Return what the client is too slow at, if anything; to be asked about once a second."""
        since_look_s, self._looked_at_s = now_s - self._looked_at_s, now_s
        if self._stalled(seen, now_s):
            return Late.READING
        if not seen.in_request:
            begun_s = self._head_since_s
            slow = begun_s is not None and now_s - begun_s > self._patience.head_timeout_s
            return Late.HEAD if slow else None
        if seen.body_whole:
            return None
        if not seen.reading:  # it is we who do not take the body: its time stands still
            self._body_since_s += since_look_s
        needed_s = self._body_bytes / self._patience.body_rate_bytes_per_s
        spent_s = now_s - self._body_since_s
        return Late.BODY if spent_s > self._patience.body_timeout_s + needed_s else None

    def _stalled(self, seen: Seen, now_s: float) -> bool:
        moved = seen.acknowledged_bytes != self._acknowledged_bytes
        self._acknowledged_bytes = seen.acknowledged_bytes
        if not seen.unsent_bytes or moved or self._stalled_since_s is None:
            self._stalled_since_s = now_s if seen.unsent_bytes else None
            return False
        return now_s - self._stalled_since_s > self._patience.stall_timeout_s
