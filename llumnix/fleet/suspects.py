"""Which request takes servers down: who was on a server when it died, judged without I/O.

A request that crashes its engine would be retried on the next one, and take the whole fleet down.
The other requests on those engines are innocent, look just like it, and must be carried on. The
rule, at each death of a server:

1. Suspect are those that had not proved themselves there by a second of output: what crashes an
   engine does so in its first steps. If all had, only one that was there alone is suspect.
2. If some suspects were blamed for a death before, these are blamed; else all suspects are. The
   others are bystanders.
3. Whoever was blamed is tried alone: no second one is sent to an instance until the first has
   produced something there, or has been in the way for some seconds.
4. A request is convicted when it is blamed for `limit` deaths and was the only one blamed for the
   last; or when it alone was suspect at a death and was there at `limit` deaths. One that has run
   on an instance for a second is cleared of all that was before.

So a request that crashes engines takes down `limit` of them, one more where it first hid among
others that had produced nothing either, and a bystander is never convicted.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from policies.types import InstanceId, RequestId

PROOF_S = 1.0
"""A request that has produced output on an instance for so long does not crash it."""
_RECENT_S = 5.0
_ALONE_S = 5.0
_RECENT = 4096
_CONVICTED_S = 600.0
_CONVICTED = 256


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
    proved: bool
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
        self, request_id: RequestId, instance_id: InstanceId, *, proved: bool, now_s: float
    ) -> None:
        """Note that a request lost its connection to an instance while it may have been on it.

        `proved` says whether it had produced something new there.
        """
        row = self._left.setdefault(instance_id, deque(maxlen=_RECENT))
        row.append(_Left(request_id, proved, now_s))

    def died(
        self,
        instance_id: InstanceId,
        present: Iterable[tuple[RequestId, bool]],
        now_s: float,
    ) -> None:
        """Note that an instance died; `present` are the requests still on it: (id, proved)."""
        gone = self._left.pop(instance_id, ())
        there = {each.request_id: each.proved for each in gone if now_s - each.at_s <= _RECENT_S}
        there.update(present)
        if not there:
            return
        suspects = [request_id for request_id, proved in there.items() if not proved]
        if not suspects and len(there) == 1:
            suspects = list(there)
        known = [each for each in suspects if each in self._records and self._records[each].blamed]
        blamed = set(known or suspects)
        for request_id, proved in there.items():
            record = self._record(request_id, proved=proved)
            record.seen += 1
            record.instances.append(instance_id)
            if request_id in blamed:
                record.blamed += 1
                record.blamed_at_s = now_s
            alone = blamed == {request_id} and record.blamed >= self.limit
            only = suspects == [request_id] and record.seen >= self.limit
            record.convicted = record.convicted or alone or only

    def tried_alone(self, now_s: float) -> list[RequestId]:
        """List the requests of which no two may be tried on one instance at once."""
        return [request_id for request_id in self._records if self.blamed(request_id, now_s)]

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

    def _record(self, request_id: RequestId, *, proved: bool) -> _Record:
        if proved or request_id not in self._records:
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
