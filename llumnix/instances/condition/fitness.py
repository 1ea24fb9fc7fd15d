"""What speaks against sending requests to an instance that is up."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from llumnix.instances.condition.breaker import Breaker, BreakerState
from llumnix.instances.watched import Watched

_LONGEST_REST_S = 30.0


class Spared(enum.StrEnum):
    """Why an instance that could be reached gets no new requests, or only if there is no other."""

    HUNG = "hung"
    FAILING = "failing"
    BUSY = "busy"


@dataclass(slots=True)
class Fitness(Watched):
    """An instance's breaker, and how long it asked to be left alone. Times are wall seconds.

    `hung` says why it is suspected of standing still, empty if it is not; `idle` that it runs
    nothing; `moved_at_s` when its engine was last seen to step; `dead` that its death has been
    taken note of.
    """

    WATCHED: ClassVar[frozenset[str]] = frozenset({"hung", "busy_until_s"})

    breaker: Breaker = field(default_factory=Breaker)
    busy_until_s: float = 0.0
    hung: str = ""
    idle: bool = True
    moved_at_s: float = 0.0
    dead: bool = False

    def watch(self, watcher: Callable[[str], object]) -> None:
        """Call this whenever something may have come to speak against the instance, or ceased."""
        Watched.watch(self, watcher)
        self.breaker.watch(watcher)

    def sound(self, now_s: float) -> bool:
        """Return whether nothing speaks against the instance, and nothing will unless noted."""
        return not self.hung and self.breaker.closed and now_s >= self.busy_until_s

    def rest(self, seconds: float, now_s: float) -> None:
        """Note that it asked for a pause; the longest that is granted is half a minute."""
        self.busy_until_s = max(self.busy_until_s, now_s + min(seconds, _LONGEST_REST_S))

    def spared(self, now_s: float) -> tuple[Spared, str] | None:
        """Return why new requests go elsewhere, if they do: the cause, and what happened."""
        if self.hung:
            return Spared.HUNG, f"{self.hung}; check its engine's log"
        if self.breaker.state(now_s) is not BreakerState.CLOSED:
            return Spared.FAILING, f"it keeps failing: {self.breaker.reason}"
        if now_s < self.busy_until_s:
            return Spared.BUSY, self.objection(now_s)
        return None

    def to_be_probed(self, now_s: float) -> bool:
        """Return whether it hung, and only a new request can tell whether it still does."""
        return bool(self.hung) and self.idle and self.breaker.admits(now_s)

    def objection(self, now_s: float) -> str:
        """Return why others are to be preferred now; empty if they are not."""
        if now_s < self.busy_until_s:
            return f"it asked to be left alone for another {self.busy_until_s - now_s:.0f} s"
        if not self.breaker.admits(now_s):
            probing = self.breaker.state(now_s) is BreakerState.HALF_OPEN
            return "it is being probed" if probing else f"it keeps failing: {self.breaker.reason}"
        return ""

    def renew(self) -> None:
        """Forget everything: the server has come up, perhaps another one."""
        self.breaker.reset()
        self.busy_until_s, self.hung, self.dead = 0.0, "", False
