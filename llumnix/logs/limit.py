"""Bound how often one kind of line is repeated.

A fault that repeats a thousand times a second is one fault: its first lines say what it is, the
rest would only push everything else out of the log, and cost the streams their time.
"""

import logging
import time
from collections.abc import Callable

from llumnix.logs.formatter import event_of

UNBOUNDED = "llumnix.requests"
"""The logger whose lines are all kept: each names another request."""

_KINDS = 1000


class RepeatLimit(logging.Filter):
    """Lets `burst` lines of a kind pass in each `period_s`.

    The first line after a period that had more says how many were left out (`left_out`). A kind is
    a logger and its event. `clock` gives seconds.
    """

    def __init__(
        self, burst: int = 100, period_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst = burst
        self._period_s = period_s
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        if record.name == UNBOUNDED:
            return True
        now = self._clock()
        key = record.name, event_of(record)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= _KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = _Kind(now)
        if now - kind.since_s >= self._period_s:
            if kind.left_out:
                record.fields = {**getattr(record, "fields", {}), "left_out": kind.left_out}
            self._kinds[key] = kind = _Kind(now)
        if kind.passed < self._burst:
            kind.passed += 1
            return True
        kind.left_out += 1
        return False


class _Kind:
    """What was logged of a kind in the present period."""

    __slots__ = ("left_out", "passed", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.passed = 0
        self.left_out = 0
