"""Recent events in the fleet, for people: a bounded list that can be followed."""

from collections import deque

from llumnix.admin.schema import EventRecord

_KEPT = 2000


class EventRing:
    """The latest events, numbered from 1; older ones are dropped."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._events: deque[EventRecord] = deque(maxlen=kept)
        self.seq = 0

    def add(self, at_s: float, kind: str, text: str, **fields: object) -> None:
        """Append an event; `fields` are JSON values."""
        self.seq += 1
        self._events.append(EventRecord(self.seq, kind, round(at_s, 6), text, fields))

    def after(self, seq: int) -> list[EventRecord]:
        """Return the remembered events that are newer than `seq`."""
        return [event for event in self._events if event.seq > seq]
