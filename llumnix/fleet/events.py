"""What happened lately in the fleet, for people: a bounded list that can be followed."""

from collections import deque
from dataclasses import dataclass
from typing import Any

_KEPT = 2000


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """One thing that happened. `at_s` is fleet time; `fields` are JSON values."""

    seq: int
    at_s: float
    kind: str
    text: str
    fields: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Give it as one flat JSON object."""
        return {
            **self.fields,
            "seq": self.seq,
            "at_s": round(self.at_s, 6),
            "kind": self.kind,
            "text": self.text,
        }


class EventRing:
    """The latest events, numbered from 1; older ones are dropped."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._events: deque[FleetEvent] = deque(maxlen=kept)
        self.seq = 0

    def add(self, at_s: float, kind: str, text: str, **fields: object) -> None:
        """Note an event."""
        self.seq += 1
        self._events.append(FleetEvent(self.seq, at_s, kind, text, fields))

    def after(self, seq: int) -> list[FleetEvent]:
        """List the events kept that are newer than `seq`."""
        return [event for event in self._events if event.seq > seq]
