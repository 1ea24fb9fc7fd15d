"""Say once why an instance is not up, say it again when the reason changes, and when it is over."""

import logging
from dataclasses import dataclass, field

from llumnix.fleet.events import EventRing
from llumnix.instances.condition.trouble import Cause, Trouble
from llumnix.instances.instance import Instance

log = logging.getLogger(__name__)

_AGAIN_S = 60.0


@dataclass(slots=True)
class _Said:
    """What was said of an instance since it was last up: the last cause, and each one's time."""

    last: Cause | None = None
    at_s: dict[Cause, float] = field(default_factory=dict)


class TroubleLog:
    """Writes to the log and the events; times are fleet seconds.

    A reason is said once until the instance is up. One that comes and goes is said again after a
    minute at the earliest, so that a server that fails now this way, now that, floods nothing.
    """

    def __init__(self, events: EventRing) -> None:
        self._events = events
        self._said: dict[Instance, _Said] = {}

    def not_up(self, instance: Instance, trouble: Trouble, now_s: float) -> None:
        """Note an attempt to reach an instance that failed."""
        said = self._said.setdefault(instance, _Said())
        cause = trouble.cause
        if cause is Cause.LOST:  # that it went down is said already, with the reason
            return
        if cause is said.last or now_s - said.at_s.get(cause, -_AGAIN_S) < _AGAIN_S:
            return
        said.last = cause
        said.at_s[cause] = now_s
        log.warning(
            "instance_not_up instance=%s url=%s cause=%s detail=%s",
            instance.id,
            instance.url,
            cause,
            trouble,
        )
        self._events.add(now_s, "instance_not_up", f"{instance.id} is not up: {trouble}")

    def up(self, instance: Instance) -> None:
        """Note that an instance reports; called with every report."""
        if self._said and self._said.pop(instance, None) is not None:
            log.warning("instance_up instance=%s url=%s", instance.id, instance.url)

    def forget(self, instance: Instance) -> None:
        """Forget an instance that left the fleet."""
        self._said.pop(instance, None)
