"""The decisions about the latest requests, bounded by their number and by what they weigh."""

from collections import OrderedDict

from llumnix.fleet.decisions.decision import Decision, DecisionKind
from policies.explained import Scores, ids_nbytes
from policies.types import InstanceIds, RequestId

REQUESTS = 4096
"""About how many requests decisions are kept at most."""
BYTES = 24 << 20
"""How much memory they may take; beyond that, those about the oldest requests are dropped."""
_EACH = 16


class DecisionMemory:
    """Remembers what was decided about requests, the latest `_EACH` decisions about each."""

    def __init__(self, max_requests: int = REQUESTS, max_bytes: int = BYTES) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._about: OrderedDict[RequestId, list[tuple[Decision, int]]] = OrderedDict()
        self._ids: InstanceIds | None = None
        self.nbytes = 0

    def add(self, request_id: RequestId, decision: Decision) -> None:
        """Record a decision; repeated holds count once, with the latest reason."""
        known = self._about.setdefault(request_id, [])
        if known and known[-1][0].kind is decision.kind is DecisionKind.HOLD:
            self.nbytes -= known.pop()[1]
        weight = self._weigh(decision)
        known.append((decision, weight))
        self.nbytes += weight
        if len(known) > _EACH:
            self.nbytes -= known.pop(0)[1]
        while len(self._about) > self._max_requests or self.nbytes > self._max_bytes:
            _, dropped = self._about.popitem(last=False)
            self.nbytes -= sum(weight for _, weight in dropped)

    def about(self, request_id: RequestId) -> list[Decision] | None:
        """Return the decisions about a request; None if it is not known (any more)."""
        known = self._about.get(request_id)
        return None if known is None else [decision for decision, _ in known]

    def _weigh(self, decision: Decision) -> int:
        """Return about how much more memory a decision takes.

        One that shares its ids with the one before does not keep them in memory by itself.
        """
        scores = decision.explanation.scores
        if not isinstance(scores, Scores) or scores.ids is self._ids:
            return decision.nbytes
        self._ids = scores.ids
        return decision.nbytes + ids_nbytes(scores.ids)
