"""What has failed one request so far, and what follows from it: a record without I/O."""

from collections.abc import Collection

from multidict import CIMultiDict, CIMultiDictProxy

from llumnix.frontend.http.outcome import Failure, FailureKind, UpstreamAnswer
from llumnix.frontend.request.refusal import OUT_OF_CONNECTIONS, Refusal
from policies.types import InstanceId

_BACKOFF_S = 0.05
_BACKOFF_MAX_S = 1.0
_STALLS = 2
_BOUNCES = 64


class Attempts:
    """Counts the failures of one request since it last progressed, at most `limit`.

    Instances in `avoided` failed it and are asked again only if there is no other; those in
    `barred` answered it with an error and are not asked again.
    """

    def __init__(self, limit: int) -> None:
        # Frozen: an empty one takes no memory, and hardly a request ever needs more.
        self.avoided: frozenset[InstanceId] = frozenset()
        self.barred: frozenset[InstanceId] = frozenset()
        self._limit = limit
        self._failures = 0
        self._stalls = 0
        self._bounces = 0
        self._busy: dict[InstanceId, Failure] = {}

    def progressed(self) -> None:
        """Note new output: earlier failures no longer count."""
        if self._failures:
            self._failures = self._stalls = 0
            self.avoided = frozenset()
            self._busy.clear()

    def sent_back(self, instance_id: InstanceId | None) -> Refusal | None:
        """Note that an instance sent the request back; a Refusal if that happened too often."""
        if instance_id is not None:
            self.avoided |= {instance_id}
        self._bounces += 1
        if self._bounces <= _BOUNCES:
            return None
        return Refusal(503, f"instances sent the request back {self._bounces} times", "overloaded")

    def failed(
        self,
        instance_id: InstanceId | None,
        failure: Failure,
        others: Collection[InstanceId],
        *,
        begun: bool,
    ) -> Refusal | UpstreamAnswer | None:
        """Note a failure; return how the request ends, or None if it is to be tried again.

        `others` are the instances that could serve it now. What an instance answers is passed on
        only if the client has nothing yet (not `begun`).
        """
        ours = failure.kind is FailureKind.STARVED
        if instance_id is not None and not ours:
            self.avoided |= {instance_id}
        if instance_id is not None and failure.kind is FailureKind.ANSWERED:
            self.barred |= {instance_id}
            if all(each in self.barred for each in others):
                message = f"every instance failed: {failure.detail}"
                return Refusal(502, message, "upstream_error")
        if instance_id is not None and failure.kind is FailureKind.BUSY and not begun:
            self._busy[instance_id] = failure
            if all(each in self.barred or each in self._busy for each in others):
                return self._busiest()
        return self._count(failure)

    def back_off_s(self) -> float:
        """Return how long to wait before the next attempt, in wall seconds.

        The first failure costs no wait, nor do instances that merely have no room: another instance
        is usually available.
        """
        hard = self._failures - len(self._busy)
        if hard <= 1:
            return 0.0
        return min(_BACKOFF_S * 2.0 ** (hard - 2), _BACKOFF_MAX_S)

    def _count(self, failure: Failure) -> Refusal | None:
        self._failures += 1
        self._stalls += failure.kind in (FailureKind.STALLED, FailureKind.SILENT)
        if self._stalls >= _STALLS and failure.kind is FailureKind.STALLED:
            return Refusal(504, failure.detail, "upstream_timeout")
        if self._failures < self._limit:
            return None
        if failure.kind is FailureKind.STARVED:
            return OUT_OF_CONNECTIONS
        return Refusal(502, f"{self._failures} attempts failed: {failure.detail}", "bad_gateway")

    def _busiest(self) -> UpstreamAnswer | Refusal:
        """Return the response of the instance that asks for the longest wait."""
        last = max(self._busy.values(), key=lambda each: each.retry_after_s)
        if last.answer is None:
            return Refusal(last.status or 503, last.detail, "overloaded")
        headers: CIMultiDict[str] = CIMultiDict(last.answer.headers)
        if last.retry_after_s:
            headers["Retry-After"] = str(round(last.retry_after_s))
        told = CIMultiDictProxy(headers)
        return UpstreamAnswer(last.answer.status, told, last.answer.body, last.answer.instance)
