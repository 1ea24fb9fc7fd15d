"""Which request takes servers down: who was on a server when it died, judged without I/O.

A request that crashes its engine would be retried on the next one, and take the whole fleet down.
The other requests on those engines are innocent, look just like it, and must be carried on. The
rule, at each death of a server:

1. Suspect are the newest of those on it: what crashes an engine does so in its first steps. First
   those that came a moment ago and have produced nothing there; if there are none, all that have
   produced nothing; if there are none of these, a request that was there all alone.
2. All suspects are blamed, or, if some of them were blamed before, only these.
3. Whoever is blamed is tried alone: on an instance where nothing else is new, and nothing new is
   sent to, until it has produced something. Such a wait is bounded by some seconds, but for those
   that were blamed `limit` times.
4. A request is convicted if it was blamed for `limit` deaths and was the only suspect of the last.
   One that has run on an instance for a second is cleared of all that was before; one that was
   there at twice as many deaths without that is convicted in any case.

So a request that crashes engines takes down `limit` of them, or one more where it first hid among
others as new as it is, or had run well for a while; and the innocent go on, since they are blamed
once at most before they have shown what they are.
"""

import enum
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from policies.types import InstanceId, RequestId

_RECENT_S = 5.0
_ALONE_S = 5.0
_RECENT = 4096
_CONVICTED_S = 600.0
_CONVICTED = 256
_HARD = 2


class Standing(enum.IntEnum):
    """How well a request is known on its instance, from the least."""

    NEW = 0
    """It came a moment ago and has produced nothing there."""
    QUIET = 1
    """It has produced nothing there for some time."""
    FLOWING = 2
    """It has produced something there."""
    PROVED = 3
    """It has run there for a while."""


@dataclass(slots=True)
class _Record:
    """The deaths that one request was there for, since it was last cleared."""

    blamed: int = 0
    seen: int = 0
    blamed_at_s: float = 0.0
    convicted: bool = False
    instances: list[InstanceId] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Left:
    """A request whose connection to an instance failed, which may mean that the instance died."""

    request_id: RequestId
    standing: Standing
    at_s: float


class Suspects:
    """Judges requests by the deaths of the servers they were on. Times are wall seconds.

    `limit` is how many servers a request may take down, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._records: dict[RequestId, _Record] = {}
        self._left: dict[InstanceId, deque[_Left]] = {}
        self._convicted: OrderedDict[bytes, float] = OrderedDict()

    def left(
        self, request_id: RequestId, instance_id: InstanceId, standing: Standing, now_s: float
    ) -> None:
        """Note that a request lost its connection to an instance while it may have been on it."""
        row = self._left.setdefault(instance_id, deque(maxlen=_RECENT))
        row.append(_Left(request_id, standing, now_s))

    def died(
        self,
        instance_id: InstanceId,
        present: Iterable[tuple[RequestId, Standing]],
        now_s: float,
    ) -> None:
        """Note that an instance died; `present` are the requests still on it."""
        gone = self._left.pop(instance_id, ())
        there = {each.request_id: each.standing for each in gone if now_s - each.at_s <= _RECENT_S}
        there.update(present)
        suspects = _suspects(there)
        known = {each for each in suspects if each in self._records and self._records[each].blamed}
        blamed = known or suspects
        for request_id, standing in there.items():
            record = self._record(request_id, standing)
            record.seen += 1
            record.instances.append(instance_id)
            if request_id in blamed:
                record.blamed += 1
                record.blamed_at_s = now_s
            sole = suspects == {request_id} and record.blamed >= self.limit
            record.convicted = record.convicted or sole or record.seen >= _HARD * self.limit

    @property
    def any_blamed(self) -> bool:
        """Whether any request was blamed, so that it is worth asking which."""
        return bool(self._records)

    def blamed(self, request_id: RequestId, now_s: float) -> bool:
        """Return whether a request is to be tried alone: always after `limit` deaths."""
        record = self._records.get(request_id)
        if record is None or not record.blamed:
            return False
        return record.blamed >= self.limit or now_s - record.blamed_at_s < _ALONE_S

    def convicted(self, request_id: RequestId) -> tuple[InstanceId, ...]:
        """Return the instances that a convicted request took down; none for any other request."""
        record = self._records.get(request_id)
        return tuple(record.instances) if record is not None and record.convicted else ()

    def forget(self, request_id: RequestId) -> None:
        """Note that a request has ended."""
        self._records.pop(request_id, None)

    def _record(self, request_id: RequestId, standing: Standing) -> _Record:
        if standing is Standing.PROVED or request_id not in self._records:
            self._records[request_id] = _Record()
        return self._records[request_id]

    # --- the same request again, under another id ---

    def condemn(self, digest: bytes, now_s: float) -> None:
        """Remember the body of a convicted request: its client may send it again."""
        self._convicted[digest] = now_s
        self._convicted.move_to_end(digest)
        while len(self._convicted) > _CONVICTED:
            self._convicted.popitem(last=False)

    @property
    def any_condemned(self) -> bool:
        """Whether any body is remembered, so that bodies are worth hashing."""
        return bool(self._convicted)

    def condemned(self, digest: bytes, now_s: float) -> bool:
        """Return whether a request with this body was convicted lately."""
        at_s = self._convicted.get(digest)
        if at_s is not None and now_s - at_s > _CONVICTED_S:
            del self._convicted[digest]
            return False
        return at_s is not None


def _suspects(there: dict[RequestId, Standing]) -> set[RequestId]:
    for least in (Standing.NEW, Standing.QUIET):
        found = {request_id for request_id, standing in there.items() if standing is least}
        if found:
            return found
    return set(there) if len(there) == 1 else set()
