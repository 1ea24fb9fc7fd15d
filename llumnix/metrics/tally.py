"""Count every figure that the fleet publishes, as Prometheus metrics and as totals in JSON.

All durations given here are fleet seconds.
"""

from collections import deque
from collections.abc import Sequence

from llumnix.admin.schema import Totals
from llumnix.metrics.catalogue import MIGRATION_RESULTS, OUTCOMES, FleetMetrics
from migration.llumlet.fleet_messages import EventKind

_KEPT = 1000
_TENANTS_TOLD_APART = 100
_OTHER_TENANTS = "other"


class _OfClass:
    """The metrics of one class, looked up once: a label lookup costs as much as counting."""

    def __init__(self, metrics: FleetMetrics, name: str) -> None:
        self.ended = {
            outcome: metrics.requests_total.labels(class_name=name, outcome=outcome)
            for outcome in OUTCOMES
        }
        self.queue_wait = metrics.queue_wait_seconds.labels(class_name=name)
        self.ttft = metrics.ttft_seconds.labels(class_name=name)
        self.tpot = metrics.tpot_seconds.labels(class_name=name)
        self.e2e = metrics.e2e_seconds.labels(class_name=name)
        self.output_tokens = metrics.output_tokens_total.labels(class_name=name)


class Tally:
    """The one place where metrics and totals are counted, so that they always agree."""

    def __init__(self, metrics: FleetMetrics, class_names: Sequence[str]) -> None:
        self.metrics = metrics
        self.arrived = 0
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.resumed = 0
        self.migrations: dict[str, int] = dict.fromkeys(MIGRATION_RESULTS, 0)
        self.streams_open = 0
        self.mismatches = 0
        self.downtimes_s: deque[float] = deque(maxlen=_KEPT)
        self.gaps_s: deque[float] = deque(maxlen=_KEPT)
        metrics.declare_classes(class_names)
        self._tenants: set[str] = set()
        self._classes = {name: _OfClass(metrics, name) for name in class_names}

    def request_arrived(self) -> None:
        """Count a request."""
        self.arrived += 1

    def request_ended(self, class_name: str, outcome: str) -> None:
        """Count a request's end: finished, failed, rejected or cancelled."""
        self.outcomes[outcome] += 1
        self._classes[class_name].ended[outcome].inc()

    def tenant_request(self, tenant: str, status: int) -> None:
        """Count a request with an API key by its status; 0 is one whose client left before."""
        if tenant not in self._tenants:
            if len(self._tenants) >= _TENANTS_TOLD_APART:
                tenant = _OTHER_TENANTS
            else:
                self._tenants.add(tenant)
        kind = f"{status // 100}xx" if status else "left"
        self.metrics.tenant_requests_total.labels(tenant=tenant, status=kind).inc()

    def access_refused(self, reason: str) -> None:
        """Count a request that was refused for its API key, or for a limit of that key."""
        self.metrics.access_refused_total.labels(reason=reason).inc()

    def stream_opened(self) -> None:
        """Count a stream that is being served from now on."""
        self.streams_open += 1
        self.metrics.streams_open.inc()

    def stream_closed(self) -> None:
        """Count a stream that is over."""
        self.streams_open -= 1
        self.metrics.streams_open.dec()

    def waited(self, class_name: str, wait_s: float) -> None:
        """Record how long a request was queued."""
        self._classes[class_name].queue_wait.observe(wait_s)

    def dispatched(self, policy: str, instance_id: str) -> None:
        """Count a request that a policy sent to an instance."""
        self.metrics.dispatched(policy, instance_id).inc()

    def first_token(self, class_name: str, ttft_s: float) -> None:
        """Record the time from arrival to the first token."""
        self._classes[class_name].ttft.observe(ttft_s)

    def answered(
        self, class_name: str, e2e_s: float, tokens: int, tpot_s: float | None = None
    ) -> None:
        """Record a finished response; `tpot_s` is None if it has fewer than two timed tokens."""
        known = self._classes[class_name]
        known.e2e.observe(e2e_s)
        known.output_tokens.inc(tokens)
        if tpot_s is not None:
            known.tpot.observe(tpot_s)

    def moved(self, gap_s: float, downtime_s: float) -> None:
        """Record the pause that a migration made in its client's stream."""
        self.gaps_s.append(gap_s)
        self.downtimes_s.append(downtime_s)
        self.metrics.migration_gap_seconds.observe(gap_s)
        self.metrics.migration_downtime_seconds.observe(downtime_s)

    def carried_on(self, reason: str, *, ok: bool) -> None:
        """Count a request resumed elsewhere: migrated, instance_died or requeued."""
        self.resumed += ok
        result = "ok" if ok else "failed"
        self.metrics.resumes_total.labels(reason=reason, result=result).inc()

    def diverged(self) -> None:
        """Count a replay that differs from what the client already had."""
        self.mismatches += 1
        self.metrics.stream_mismatch_total.inc()

    def forged(self, reason: str) -> None:
        """Count a refused frame on the control surface."""
        self.metrics.control_frames_refused_total.labels(reason=reason).inc()

    def migration_ended(self, reason: str, result: EventKind, copied_bytes: int) -> None:
        """Count a migration: committed, aborted or refused."""
        self.migrations[result] += 1
        self.metrics.migrations_total.labels(reason=reason, result=result).inc()
        self.metrics.migration_copied_bytes_total.inc(copied_bytes)

    def totals(self) -> Totals:
        """Return the totals for the admin API."""
        return Totals(
            requests=self.arrived,
            **self.outcomes,
            resumed=self.resumed,
            migrations_committed=self.migrations[EventKind.COMMITTED],
            migrations_aborted=self.migrations[EventKind.ABORTED],
            migrations_refused=self.migrations[EventKind.REFUSED],
            stream_mismatches=self.mismatches,
            streams_open=self.streams_open,
            downtime_ms=tuple(round(1e3 * value, 3) for value in self.downtimes_s),
            gap_ms=tuple(round(1e3 * value, 3) for value in self.gaps_s),
        )
