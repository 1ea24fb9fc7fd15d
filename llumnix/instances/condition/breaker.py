"""A circuit breaker: an instance that keeps failing is left alone for a while, then probed.

Pure: time is given. Closed, it lets everything through and counts failures. Open, it lets nothing
through for some seconds. Half open, it lets one request through, whose outcome decides.
"""

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

from llumnix.instances.watched import Watched

_LONGEST = 6
"""The wait doubles with each failed probe, so many times at most."""


class BreakerState(enum.StrEnum):
    """Whether requests may go to an instance that has failed some."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens: `failures` in a row, or half of the last `window` outcomes.

    It stays open for `open_s` wall seconds, twice as long after each failed probe. 0 failures: it
    never opens.
    """

    failures: int = 5
    window: int = 20
    open_s: float = 5.0


@dataclass(slots=True)
class Breaker(Watched):
    """Counts the outcomes of requests at one instance. Times are wall seconds."""

    WATCHED: ClassVar[frozenset[str]] = frozenset({"_state"})

    limits: BreakerLimits = BreakerLimits()
    reason: str = ""
    _outcomes: deque[bool] = field(default_factory=deque)
    _in_a_row: int = 0
    _opened: int = 0
    _until_s: float = 0.0
    _state: BreakerState = BreakerState.CLOSED
    _probed_at_s: float | None = None

    @property
    def closed(self) -> bool:
        """Whether everything is let through, at any time, until failures are noted."""
        return self._state is BreakerState.CLOSED

    def state(self, now_s: float) -> BreakerState:
        """Return the state now."""
        if self._state is BreakerState.OPEN and now_s >= self._until_s:
            self._state = BreakerState.HALF_OPEN
            self._probed_at_s = None
        return self._state

    def admits(self, now_s: float) -> bool:
        """Return whether a request may be sent now; one that may be is to be noted by `sent`."""
        state = self.state(now_s)
        if state is BreakerState.HALF_OPEN:
            # A probe whose outcome never came (its client left) must not block the next for ever.
            return self._probed_at_s is None or now_s - self._probed_at_s > self._wait_s()
        return state is BreakerState.CLOSED

    def sent(self, now_s: float) -> None:
        """Note that a request is on its way: the probe, when half open."""
        if self.state(now_s) is BreakerState.HALF_OPEN:
            self._probed_at_s = now_s

    def succeeded(self, now_s: float) -> bool:
        """Note that the instance answered; return whether that closed the breaker."""
        closes = self.state(now_s) is not BreakerState.CLOSED
        if closes:
            self.reset()
        self._in_a_row = 0
        self._note(ok=True)
        return closes

    def failed(self, now_s: float, reason: str) -> bool:
        """Note that the instance failed a request; return whether that opened the breaker."""
        if self.limits.failures < 1:
            return False
        self._in_a_row += 1
        self._note(ok=False)
        state = self.state(now_s)
        if state is BreakerState.OPEN:
            return False
        if state is BreakerState.HALF_OPEN or self._too_many():
            self._open(now_s, reason)
            return True
        return False

    def trip(self, now_s: float, reason: str) -> bool:
        """Open at once; return whether it was not open before."""
        if self.limits.failures < 1 or self.state(now_s) is BreakerState.OPEN:
            return False
        self._open(now_s, reason)
        return True

    def reset(self) -> None:
        """Close, and forget what was counted: the instance is a new one."""
        self._state, self.reason = BreakerState.CLOSED, ""
        self._in_a_row = self._opened = 0
        self._outcomes.clear()
        self._probed_at_s = None

    def _open(self, now_s: float, reason: str) -> None:
        self._opened += 1
        self._until_s = now_s + self._wait_s()
        self._state, self.reason = BreakerState.OPEN, reason
        self._outcomes.clear()
        self._in_a_row = 0

    def _wait_s(self) -> float:
        return self.limits.open_s * 2.0 ** min(max(0, self._opened - 1), _LONGEST)

    def _too_many(self) -> bool:
        full = len(self._outcomes) >= self.limits.window
        half = full and 2 * self._outcomes.count(False) >= len(self._outcomes)
        return half or self._in_a_row >= self.limits.failures

    def _note(self, *, ok: bool) -> None:
        self._outcomes.append(ok)
        while len(self._outcomes) > self.limits.window:
            self._outcomes.popleft()
