"""Every Prometheus metric of the fleet, defined once.

`CATALOGUE` is the one list: `FleetMetrics` builds the client objects from it, and the dashboard
and the alert rules are checked against it. All durations are *fleet* seconds (on an emulated fleet,
wall time multiplied by its speed), so that one dashboard is right at any speed.

Two traps shape the names. None has a colon: exporters escape colons for some scrapers, and every
query then silently finds nothing. And an engine's label is `instance_id`, never `instance`:
Prometheus writes the scraped host into `instance` and would rename this one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from llumnix import __version__
from llumnix.metrics.gauge_table import GaugeTable
from migration.llumlet.fleet_messages import EventKind
from policies.types import MigrateReason

MetricKind = Literal["counter", "gauge", "histogram"]

PREFIX: Final = "llumnix_"
UP: Final = PREFIX + "instance_up"
OUTCOMES: Final = ("finished", "failed", "rejected", "cancelled")
MIGRATION_REASONS: Final[tuple[str, ...]] = tuple(MigrateReason)
MIGRATION_RESULTS: Final[tuple[str, ...]] = (
    EventKind.COMMITTED,
    EventKind.ABORTED,
    EventKind.REFUSED,
)
RESUME_REASONS: Final = ("migrated", "instance_died", "requeued")
RESUME_RESULTS: Final = ("ok", "failed")
ACCESS_REFUSALS: Final = ("missing_api_key", "invalid_api_key", "rate_limit_exceeded")
KV_KINDS: Final = ("physical", "reserved", "capacity")

# Common service-level bounds (0.2, 0.5, 1, 2, 3, 10 s …) are all bucket bounds: the share of
# requests within an objective is exact only there.
_TTFT_S: Final = (
    *(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0),
    *(7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0),
)
_TPOT_S: Final = (
    *(0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0),
)
_E2E_S: Final = (
    *(0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0),
    *(30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0),
)
_WAIT_S: Final = (
    *(0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0),
    *(5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
_GAP_S: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of the catalogue; `unit` is the unit of its value (seconds, tokens…).

    `buckets` are the upper bounds of a histogram, in its unit; other kinds have none.
    """

    name: str
    kind: MetricKind
    help: str
    unit: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def series(self) -> tuple[str, ...]:
        """Return the names of the series that a scrape shows for this metric."""
        if self.kind == "histogram":
            return tuple(f"{self.name}{part}" for part in ("_bucket", "_sum", "_count"))
        return (self.name,)


def _counter(name: str, unit: str, text: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, "counter", text, unit, labels)


def _gauge(name: str, unit: str, text: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, "gauge", text, unit, labels)


def _seconds(name: str, buckets: tuple[float, ...], text: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, "histogram", text, "seconds", labels, buckets)


CATALOGUE: Final[tuple[Metric, ...]] = (
    _counter("requests_total", "requests", "Requests that ended.", "class_name", "outcome"),
    _counter("output_tokens_total", "tokens", "Output tokens sent to clients.", "class_name"),
    _seconds("ttft_seconds", _TTFT_S, "Time from arrival to the first output token.", "class_name"),
    _seconds("tpot_seconds", _TPOT_S, "Mean time per output token after the first.", "class_name"),
    _seconds("e2e_seconds", _E2E_S, "Time from arrival to the last output token.", "class_name"),
    _seconds("queue_wait_seconds", _WAIT_S, "Time spent in the frontend's queue.", "class_name"),
    _gauge("queue_length", "requests", "Requests in the frontend's queue.", "class_name"),
    _gauge(
        "queue_limit", "requests", "Capacity of the frontend's queue, in requests of all classes."
    ),
    _counter("dispatch_total", "requests", "Requests sent to instances.", "policy", "instance_id"),
    _gauge("streams_open", "streams", "Client streams being served."),
    _counter("migrations_total", "migrations", "Migrations that ended.", "reason", "result"),
    _seconds(
        "migration_downtime_seconds",
        _GAP_S,
        "Pause that a migration added for the client: its gap less one mean inter-token interval.",
    ),
    _seconds(
        "migration_gap_seconds",
        _GAP_S,
        "Time from the source's last token to the destination's first new one, as the client saw "
        "it.",
    ),
    _counter("migration_copied_bytes_total", "bytes", "KV bytes copied by migrations."),
    _counter(
        "resumes_total", "streams", "Streams resumed on another instance.", "reason", "result"
    ),
    _counter(
        "stream_mismatch_total", "streams", "Replays that differ from what the client already had."
    ),
    _gauge("instance_up", "flag", "1 while the instance is up, else 0.", "instance_id"),
    _gauge(
        "instance_not_up",
        "flag",
        "1 while the instance is not up, or left alone (hung, failing, busy), for this cause; no "
        "series otherwise.",
        "instance_id",
        "cause",
    ),
    _gauge(
        "instance_freeness",
        "steps",
        "Decode steps that the instance can still run, as the scheduler sees it; may be negative.",
        "instance_id",
    ),
    _gauge("instance_running", "requests", "Requests in the instance's batch.", "instance_id"),
    _gauge("instance_waiting", "requests", "Requests in the instance's queue.", "instance_id"),
    _gauge(
        "instance_prefill_backlog_tokens",
        "tokens",
        "Tokens that the instance has yet to prefill; 0 if it does not report them.",
        "instance_id",
    ),
    _gauge("instance_kv_tokens", "tokens", "KV cache of the instance.", "instance_id", "kind"),
    _gauge("snapshot_age_seconds", "seconds", "Age of the instance's last report.", "instance_id"),
    _counter(
        "control_frames_refused_total", "frames", "Control frames that were refused.", "reason"
    ),
    _counter(
        "tenant_requests_total",
        "requests",
        "Requests sent with an API key, by its tenant and the kind of status they got.",
        "tenant",
        "status",
    ),
    _counter("access_refused_total", "requests", "Requests refused for their API key.", "reason"),
    _gauge("build_info", "info", "Always 1; labelled with the running version.", "version"),
)

_BY_NAME: Final = {metric.name: metric for metric in CATALOGUE}


class FleetMetrics:
    """The catalogue as prometheus-client objects, one attribute each.

    An attribute is the metric's name without `llumnix_`. Build one per registry; a second on the
    same registry raises ValueError. Call `declare_classes` once, so that counters exist at 0 before
    their first event: Prometheus cannot see an increase from nothing.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = REGISTRY if registry is None else registry
        self.requests_total = self._counter("requests_total")
        self.output_tokens_total = self._counter("output_tokens_total")
        self.ttft_seconds = self._histogram("ttft_seconds")
        self.tpot_seconds = self._histogram("tpot_seconds")
        self.e2e_seconds = self._histogram("e2e_seconds")
        self.queue_wait_seconds = self._histogram("queue_wait_seconds")
        self.queue_length = self._gauge("queue_length")
        self.queue_limit = self._gauge("queue_limit")
        self.dispatch_total = self._counter("dispatch_total")
        self._dispatched: dict[tuple[str, str], Counter] = {}
        self._of_instance: dict[str, InstanceGauges] = {}
        self._retained: tuple[frozenset[str], frozenset[str]] | None = None
        self.streams_open = self._gauge("streams_open")
        self.migrations_total = self._counter("migrations_total")
        self.migration_downtime_seconds = self._histogram("migration_downtime_seconds")
        self.migration_gap_seconds = self._histogram("migration_gap_seconds")
        self.migration_copied_bytes_total = self._counter("migration_copied_bytes_total")
        self.resumes_total = self._counter("resumes_total")
        self.stream_mismatch_total = self._counter("stream_mismatch_total")
        self.instance_up = self._instance_gauge("instance_up")
        self.instance_not_up = self._instance_gauge("instance_not_up")
        self.instance_freeness = self._instance_gauge("instance_freeness")
        self.instance_running = self._instance_gauge("instance_running")
        self.instance_waiting = self._instance_gauge("instance_waiting")
        self.instance_prefill_backlog_tokens = self._instance_gauge(
            "instance_prefill_backlog_tokens"
        )
        self.instance_kv_tokens = self._instance_gauge("instance_kv_tokens")
        self.snapshot_age_seconds = self._instance_gauge("snapshot_age_seconds")
        self.control_frames_refused_total = self._counter("control_frames_refused_total")
        self.tenant_requests_total = self._counter("tenant_requests_total")
        self.access_refused_total = self._counter("access_refused_total")
        self.build_info = self._gauge("build_info")
        self.build_info.labels(version=__version__).set(1)
        for reason in MIGRATION_REASONS:
            for result in MIGRATION_RESULTS:
                self.migrations_total.labels(reason=reason, result=result)
        for refusal in ACCESS_REFUSALS:
            self.access_refused_total.labels(reason=refusal)
        for reason in RESUME_REASONS:
            for result in RESUME_RESULTS:
                self.resumes_total.labels(reason=reason, result=result)

    def declare_classes(self, class_names: Sequence[str]) -> None:
        """Create the series of these priority classes at zero."""
        for class_name in class_names:
            for outcome in OUTCOMES:
                self.requests_total.labels(class_name=class_name, outcome=outcome)
            self.output_tokens_total.labels(class_name=class_name)
            self.queue_length.labels(class_name=class_name)
            for histogram in (
                self.ttft_seconds,
                self.tpot_seconds,
                self.e2e_seconds,
                self.queue_wait_seconds,
            ):
                histogram.labels(class_name=class_name)

    def dispatched(self, policy: str, instance_id: str) -> Counter:
        """Return the counter of what a policy sends to an instance, kept at hand."""
        known = self._dispatched.get((policy, instance_id))
        if known is None:
            known = self.dispatch_total.labels(policy=policy, instance_id=instance_id)
            self._dispatched[policy, instance_id] = known
        return known

    def of_instance(self, instance_id: str) -> "InstanceGauges":
        """Return the gauges of what an instance reports, kept at hand."""
        known = self._of_instance.get(instance_id)
        if known is None:
            known = self._of_instance[instance_id] = InstanceGauges(self, instance_id)
        return known

    def retain_instances(self, known: Collection[str], reporting: Collection[str]) -> None:
        """Drop the series of instances that are gone, so that none keeps an old value.

        Counters and `instance_up` stay for the `known` instances, which are in the fleet whether up
        or not; figures from reports stay only for those that are `reporting`.
        """
        kept = frozenset(known), frozenset(reporting)
        if kept == self._retained:
            return
        self._retained = kept
        for metric in CATALOGUE:
            if "instance_id" not in metric.labels:
                continue
            reported = metric.kind == "gauge" and metric.name != UP
            ids, at = kept[reported], metric.labels.index("instance_id")
            collector: Counter | GaugeTable = getattr(self, metric.name.removeprefix(PREFIX))
            if isinstance(collector, GaugeTable):
                collector.retain(at, ids)
            else:
                self._drop(collector, metric, ids)
        self._dispatched.clear()
        self._of_instance.clear()

    @staticmethod
    def _drop(collector: Counter, metric: Metric, kept: frozenset[str]) -> None:
        """Drop the rows of a counter whose instance is not kept."""
        rows = {
            tuple(sample.labels[label] for label in metric.labels)
            for family in collector.collect()
            for sample in family.samples
            if sample.labels["instance_id"] not in kept
        }
        for row in rows:
            collector.remove(*row)

    def _instance_gauge(self, name: str) -> GaugeTable:
        metric = _BY_NAME[PREFIX + name]
        return GaugeTable(metric.name, metric.help, metric.labels, self.registry)

    def _counter(self, name: str) -> Counter:
        metric = _BY_NAME[PREFIX + name]
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        metric = _BY_NAME[PREFIX + name]
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        metric = _BY_NAME[PREFIX + name]
        return Histogram(
            metric.name,
            metric.help,
            metric.labels,
            registry=self.registry,
            buckets=metric.buckets,
        )


class InstanceGauges:
    """The gauges of one instance that reports, looked up once."""

    def __init__(self, metrics: FleetMetrics, instance_id: str) -> None:
        self.freeness = metrics.instance_freeness.labels(instance_id=instance_id)
        self.running = metrics.instance_running.labels(instance_id=instance_id)
        self.waiting = metrics.instance_waiting.labels(instance_id=instance_id)
        self.age = metrics.snapshot_age_seconds.labels(instance_id=instance_id)
        self.backlog = metrics.instance_prefill_backlog_tokens.labels(instance_id=instance_id)
        self.kv = {
            kind: metrics.instance_kv_tokens.labels(instance_id=instance_id, kind=kind)
            for kind in KV_KINDS
        }
