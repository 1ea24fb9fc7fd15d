"""Virtual time: an event queue whose order depends only on what was put in.

Events are keyed (time, priority, sequence) in integer nanoseconds, so that equal inputs give equal
runs on every machine. At one time, lower priorities go first: events precede the decisions about
them.
"""

import enum
import heapq
from collections.abc import Callable

NS_PER_S = 1_000_000_000


class Priority(enum.IntEnum):
    """The order of events at one time."""

    STEP = 0
    NETWORK = 1
    FAILURE = 2
    ARRIVAL = 3
    REPORT = 4
    DECISION = 5


class Event:
    """Something to be done at a given time, unless it is cancelled first."""

    __slots__ = ("at_ns", "call")

    def __init__(self, at_ns: int, call: Callable[[], None]) -> None:
        self.at_ns = at_ns
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Cancel it; more than once is fine."""
        self.call = None


class EventQueue:
    """The pending events. Time stands still while an event is carried out."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.done = 0
        self._heap: list[tuple[int, int, int, Event]] = []
        self._sequence = 0

    @property
    def now_s(self) -> float:
        """The time in seconds, for code that decides in seconds."""
        return self.now_ns / NS_PER_S

    def at(self, at_ns: int, priority: Priority, call: Callable[[], None]) -> Event:
        """Schedule an action at a given time, which must not be in the past."""
        assert at_ns >= self.now_ns, f"{at_ns} ns is in the past, it is {self.now_ns}"
        event = Event(at_ns, call)
        self._sequence += 1
        heapq.heappush(self._heap, (at_ns, int(priority), self._sequence, event))
        return event

    def after(self, delay_ns: int, priority: Priority, call: Callable[[], None]) -> Event:
        """Schedule an action after a delay."""
        return self.at(self.now_ns + delay_ns, priority, call)

    def next_at(self) -> tuple[int, int] | None:
        """Return the time and the priority of the next event."""
        while self._heap and self._heap[0][3].call is None:
            heapq.heappop(self._heap)
        return self._heap[0][:2] if self._heap else None

    def advance(self) -> bool:
        """Process the next event; False when there is none left."""
        while self._heap:
            at_ns, _, _, event = heapq.heappop(self._heap)
            if event.call is None:
                continue
            self.now_ns = at_ns
            self.done += 1
            call, event.call = event.call, None
            call()
            return True
        return False
