"""The in-flight ledger: requests dispatched that are not yet in any report.

Reports are polled, so for a moment a dispatched request is nowhere: no longer in the frontend's
queue, not yet in an instance's report. A scheduler that forgets it sends the next hundred requests
to the same instance. Entries are removed when a report has counted them, when the request has
ended, or by age.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from policies.types import FleetSnapshot, InstanceId, RequestId


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One request on its way to an instance."""

    instance_id: InstanceId
    tokens: int
    entered_at_s: float


class InFlightLedger:
    """Requests on their way, and their sums per instance. Times are the caller's, in seconds."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        # Kept in order of entry, so that only the oldest entries are checked for expiry.
        self._entries: dict[RequestId, LedgerEntry] = {}
        self._tokens: Counter[InstanceId] = Counter()
        self._requests: Counter[InstanceId] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def enter(
        self, request_id: RequestId, instance_id: InstanceId, tokens: int, now_s: float
    ) -> None:
        """Record a dispatch; a request dispatched again leaves its former instance."""
        self.forget(request_id)
        self._entries[request_id] = LedgerEntry(instance_id, tokens, now_s)
        self._tokens[instance_id] += tokens
        self._requests[instance_id] += 1

    def confirm(self, instance_id: InstanceId, request_ids: Iterable[RequestId]) -> None:
        """Drop the requests this instance has reported; those in flight elsewhere stay."""
        for request_id in request_ids:
            entry = self._entries.get(request_id)
            if entry is not None and entry.instance_id == instance_id:
                self.forget(request_id)

    def confirm_until(self, instance_id: InstanceId, at_s: float) -> None:
        """Drop what was sent to this instance until then: for reports that name no requests."""
        self._drop(
            request_id
            for request_id, entry in self._entries.items()
            if entry.instance_id == instance_id and entry.entered_at_s <= at_s
        )

    def forget(self, request_id: RequestId) -> None:
        """Drop a request that has ended or goes elsewhere. Unknown ids are ignored."""
        entry = self._entries.pop(request_id, None)
        if entry is not None:
            self._tokens[entry.instance_id] -= entry.tokens
            self._requests[entry.instance_id] -= 1
            if not self._requests[entry.instance_id]:
                del self._tokens[entry.instance_id], self._requests[entry.instance_id]

    def forget_instance(self, instance_id: InstanceId) -> None:
        """Drop everything on its way to an instance that is gone."""
        self._drop(key for key, entry in self._entries.items() if entry.instance_id == instance_id)
        del self._tokens[instance_id], self._requests[instance_id]

    def expire(self, now_s: float) -> int:
        """Drop entries older than the timeout, and return their number: their reports were lost."""
        expired = 0
        while self._entries:
            oldest = next(iter(self._entries))
            if now_s - self._entries[oldest].entered_at_s <= self.timeout_s:
                break
            self.forget(oldest)
            expired += 1
        return expired

    def fill_in(self, snapshot: FleetSnapshot) -> FleetSnapshot:
        """Return the snapshot with its in-flight columns filled in from this ledger."""
        if not self._entries:
            return snapshot
        row_of = snapshot.rows
        here = [each for each in self._requests if each in row_of]
        rows = [row_of[each] for each in here]
        tokens = np.zeros(len(snapshot.ids), dtype=np.int64)
        requests = tokens.copy()
        tokens[rows] = [self._tokens[each] for each in here]
        requests[rows] = [self._requests[each] for each in here]
        return replace(snapshot, in_flight_tokens=tokens, in_flight_requests=requests)

    def rows(self, snapshot: FleetSnapshot) -> tuple[list[int], list[int]]:
        """Return both in-flight columns of `fill_in`, requests and tokens, as plain numbers."""
        if not self._entries:
            return snapshot.in_flight_requests.tolist(), snapshot.in_flight_tokens.tolist()
        requests, tokens = self._requests.get, self._tokens.get
        ids = snapshot.ids
        return [requests(each, 0) for each in ids], [tokens(each, 0) for each in ids]

    def _drop(self, request_ids: Iterable[RequestId]) -> None:
        for request_id in list(request_ids):
            self.forget(request_id)
