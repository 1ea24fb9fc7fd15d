"""Counting: every figure the fleet publishes, as Prometheus metrics and as totals in JSON.

All durations given here are fleet seconds.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from llumnix.metrics import FleetMetrics

_KEPT = 1000


class Tally:
    """The one place where metrics and totals are counted, so that they always agree."""

    def __init__(self, metrics: FleetMetrics, class_names: Sequence[str]) -> None:
        self.metrics = metrics
        self.arrived = 0
        self.outcomes = {"finished": 0, "failed": 0, "rejected": 0, "cancelled": 0}
        self.resumed = 0
        self.migrations = {"committed": 0, "aborted": 0, "refused": 0}
        self.streams_open = 0
        self.mismatches = 0
        self.downtimes_s: deque[float] = deque(maxlen=_KEPT)
        self.gaps_s: deque[float] = deque(maxlen=_KEPT)
        metrics.declare_classes(class_names)

    def request_arrived(self) -> None:
        """Count a request."""
        self.arrived += 1

    def request_ended(self, class_name: str, outcome: str) -> None:
        """Count a request's end: finished, failed, rejected or cancelled."""
        self.outcomes[outcome] += 1
        self.metrics.requests_total.labels(class_name=class_name, outcome=outcome).inc()

    def stream_opened(self) -> None:
        """Count a stream that is being served from now on."""
        self.streams_open += 1
        self.metrics.streams_open.inc()

    def stream_closed(self) -> None:
        """Count a stream that is over."""
        self.streams_open -= 1
        self.metrics.streams_open.dec()

    def waited(self, class_name: str, wait_s: float) -> None:
        """Note how long a request was held in the queue."""
        self.metrics.queue_wait_seconds.labels(class_name=class_name).observe(wait_s)

    def dispatched(self, policy: str, instance_id: str) -> None:
        """Count a request sent to an instance by a policy."""
        self.metrics.dispatch_total.labels(policy=policy, instance_id=instance_id).inc()

    def first_token(self, class_name: str, ttft_s: float) -> None:
        """Note the time from arrival to the first token."""
        self.metrics.ttft_seconds.labels(class_name=class_name).observe(ttft_s)

    def answered(
        self, class_name: str, e2e_s: float, tokens: int, tpot_s: float | None = None
    ) -> None:
        """Note a finished answer; `tpot_s` is None where it has fewer than two timed tokens."""
        self.metrics.e2e_seconds.labels(class_name=class_name).observe(e2e_s)
        self.metrics.output_tokens_total.labels(class_name=class_name).inc(tokens)
        if tpot_s is not None:
            self.metrics.tpot_seconds.labels(class_name=class_name).observe(tpot_s)

    def moved(self, gap_s: float, downtime_s: float) -> None:
        """Note the pause a migration made in its client's stream."""
        self.gaps_s.append(gap_s)
        self.downtimes_s.append(downtime_s)
        self.metrics.migration_gap_seconds.observe(gap_s)
        self.metrics.migration_downtime_seconds.observe(downtime_s)

    def carried_on(self, reason: str, *, ok: bool) -> None:
        """Count a request continued elsewhere: migrated, instance_died or requeued."""
        self.resumed += ok
        result = "ok" if ok else "failed"
        self.metrics.resumes_total.labels(reason=reason, result=result).inc()

    def diverged(self) -> None:
        """Count a replay unlike what the client already had."""
        self.mismatches += 1
        self.metrics.stream_mismatch_total.inc()

    def forged(self, reason: str) -> None:
        """Count something on the control surface that was refused."""
        self.metrics.control_frames_refused_total.labels(reason=reason).inc()

    def migration_ended(self, reason: str, result: str, copied_bytes: int) -> None:
        """Count a migration: committed, aborted or refused."""
        self.migrations[result] += 1
        self.metrics.migrations_total.labels(reason=reason, result=result).inc()
        self.metrics.migration_copied_bytes_total.inc(copied_bytes)

    def totals(self) -> dict[str, Any]:
        """Give the totals as JSON values."""
        return {
            "requests": self.arrived,
            **self.outcomes,
            "resumed": self.resumed,
            "migrations_committed": self.migrations["committed"],
            "migrations_aborted": self.migrations["aborted"],
            "migrations_refused": self.migrations["refused"],
            "stream_mismatches": self.mismatches,
            "streams_open": self.streams_open,
            "downtime_ms": [round(1e3 * value, 3) for value in self.downtimes_s],
            "gap_ms": [round(1e3 * value, 3) for value in self.gaps_s],
        }
