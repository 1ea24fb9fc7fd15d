"""Times of another machine: each has a monotonic clock of its own."""

from typing import Any, Final

from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.messages import Kind

_SAME_MACHINE_S: Final = 1.0
"""Clocks that differ by less are taken to be one: the difference is how long a message took."""


class Times:
    """Puts times of the scheduler's clock in those of ours, and the other way."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def learn(self, theirs_s: float, ours_s: float) -> None:
        """Note what both clocks show now."""
        ahead_s = ours_s - theirs_s
        self._ahead_s = 0.0 if abs(ahead_s) < _SAME_MACHINE_S else ahead_s

    def ours(self, at_s: float) -> float:
        """Return a time by our clock."""
        return at_s + self._ahead_s

    def theirs(self, message: Message) -> Message:
        """Return a message with its times by the scheduler's clock."""
        if not self._ahead_s:
            return message
        kind, *rest = message
        if kind == Kind.STATE:
            return [kind, *self._state(rest)]
        if kind == Kind.ADOPT:
            return [kind, [self._state(each) for each in rest[0]]]
        if kind == Kind.FLOWED:
            return [kind, {name: at_s - self._ahead_s for name, at_s in rest[0].items()}]
        return message

    def _state(self, told: list[Any]) -> list[Any]:
        request_id, state, instance_id, placed_at_s, flows_since_s, *more = told
        flows = None if flows_since_s is None else flows_since_s - self._ahead_s
        return [request_id, state, instance_id, placed_at_s - self._ahead_s, flows, *more]
