"""The result of one run, as `--json` of `demo` and `replay` writes it.

Times are emulated seconds (wall seconds times speed), counted from each request's *scheduled*
arrival. Latencies are over finished requests. A quantile lies between the two nearest order
statistics, linearly interpolated (numpy's default). None (null) means unknown.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from llumnix.loadgen.check import OutputCheck
from llumnix.loadgen.probe import FleetRun
from llumnix.loadgen.records import Status
from llumnix.results.validity import SLIP_BOUND_S, Validity
from simulator.workload.request import TraceRequest


class Record(Protocol):
    """The record of one request, measured (`loadgen.records`) or simulated (`planning.outcome`)."""

    @property
    def request(self) -> TraceRequest:
        """The request."""

    @property
    def status(self) -> Status:
        """How the request ended."""

    @property
    def tokens(self) -> int:
        """Output tokens received."""

    @property
    def ttft_s(self) -> float | None:
        """From the scheduled arrival to the first token; None without one."""

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first; None with fewer than two."""

    @property
    def e2e_s(self) -> float | None:
        """From the scheduled arrival to the last token; None without one."""

    @property
    def slip_s(self) -> float:
        """How late the request was sent."""

    @property
    def ended_s(self) -> float:
        """The time of the last event known of the request."""

    @property
    def shed(self) -> bool:
        """Whether the request was rejected for load."""

    @property
    def error(self) -> str:
        """What went wrong; empty if nothing did."""


@dataclass(frozen=True, slots=True)
class Slo:
    """The bounds that a request must meet to count as good; infinite ones always hold."""

    ttft_s: float = float("inf")
    tpot_s: float = float("inf")

    def met(self, record: Record) -> bool:
        """Whether a request finished within both bounds; a single token has no TPOT."""
        ttft_s = record.ttft_s
        if record.status is not Status.FINISHED or ttft_s is None:
            return False
        return ttft_s <= self.ttft_s and (record.tpot_s or 0.0) <= self.tpot_s


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Two quantiles; None if there are no values."""

    p50: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quantiles":
        """Return the quantiles of these values."""
        if not len(values):
            return cls()
        p50, p99 = np.quantile(np.asarray(values), [0.5, 0.99])
        return cls(round(float(p50), 6), round(float(p99), 6))


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and two quantiles; None if there are no values."""

    mean: float | None = None
    p50: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread":
        """Return the mean and quantiles of the known values."""
        known = [value for value in values if value is not None]
        if not known:
            return cls()
        quantiles = Quantiles.of(known)
        return cls(round(float(np.mean(known)), 6), quantiles.p50, quantiles.p99)


@dataclass(frozen=True, slots=True)
class Median:
    """The median alone; None if unknown."""

    p50: float | None = None


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests that met both SLOs: their share of all requests sent, and their rate per second."""

    share: float
    rps: float
    slo_ttft_s: float | None
    slo_tpot_s: float | None


@dataclass(frozen=True, slots=True)
class ClassResult:
    """The latencies of one priority class."""

    requests: int
    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run. `requests = finished + failed + rejected`, always.

    `failed` includes `cut` streams (broken off after their first token); `rejected` includes `shed`
    requests (rejected for load rather than for their length). Token faults are None if outputs were
    not compared, fleet figures if the server is not Llumnix. `gap_ms` is a stream's pause at a
    migration, `downtime_ms` that pause less the stream's usual time per token. `instance_seconds`
    is the total time that machines were held: GPU seconds, at one GPU per machine.
    """

    policy: str
    migration: bool | None
    valid: bool
    invalid_reasons: tuple[str, ...]
    seed: int
    speed: float
    requests: int
    finished: int
    failed: int
    cut: int
    rejected: int
    shed: int
    output_tokens: int
    tokens_lost: int | None
    tokens_doubled: int | None
    tokens_wrong: int | None
    texts_wrong: int | None
    resumed: int | None
    migrations_committed: int | None
    migrations_aborted: int | None
    downtime_ms: Quantiles
    gap_ms: Quantiles
    decode_step_ms: Median
    preemptions: int | None
    cached_prompt_tokens: int | None
    instance_seconds: float | None
    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    goodput: Goodput | None
    duration_s: float
    slip_p99_s: float
    errors: tuple[str, ...] = ()
    by_class: Mapping[str, ClassResult] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the run is valid, nothing failed, and no output had a fault."""
        faults = (self.tokens_lost, self.tokens_doubled, self.tokens_wrong, self.texts_wrong)
        return self.valid and not self.failed and not any(faults)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return dataclasses.asdict(self)


def summarise(
    records: Sequence[Record],
    *,
    policy: str,
    seed: int,
    speed: float = 1.0,
    fleet: FleetRun | None = None,
    check: OutputCheck | None = None,
    slo: Slo | None = None,
    slip_bound_s: float = SLIP_BOUND_S,
) -> RunResult:
    """Summarise one run; `check` if outputs were compared, `fleet` if the server is Llumnix."""
    fleet = fleet or FleetRun()
    count = Counter(record.status for record in records)
    latencies = _latencies(records)
    duration_s = _duration_s(records)
    validity = judge(records, fleet, check, slip_bound_s)
    return RunResult(
        policy=policy,
        migration=fleet.migration,
        valid=not validity.causes,
        invalid_reasons=validity.reasons,
        seed=seed,
        speed=speed,
        requests=len(records),
        finished=count[Status.FINISHED],
        failed=count[Status.FAILED] + count[Status.CUT],
        cut=count[Status.CUT],
        rejected=count[Status.REJECTED],
        shed=sum(record.shed for record in records),
        output_tokens=sum(record.tokens for record in records),
        tokens_lost=check.tokens_lost if check else None,
        tokens_doubled=check.tokens_doubled if check else None,
        tokens_wrong=check.tokens_wrong if check else None,
        texts_wrong=check.texts_wrong if check else None,
        resumed=fleet.resumed,
        migrations_committed=fleet.migrations_committed,
        migrations_aborted=fleet.migrations_aborted,
        downtime_ms=Quantiles.of(fleet.downtimes_ms),
        gap_ms=Quantiles.of(fleet.gaps_ms),
        decode_step_ms=Median(fleet.decode_step_p50_ms),
        preemptions=fleet.preemptions,
        cached_prompt_tokens=fleet.cached_prompt_tokens,
        instance_seconds=fleet.instance_seconds,
        goodput=_goodput(records, slo, duration_s),
        duration_s=round(duration_s, 6),
        slip_p99_s=validity.slip_p99_s,
        errors=_errors(records),
        by_class=_by_class(records, latencies),
        **latencies,
    )


def judge(
    records: Sequence[Record],
    fleet: FleetRun,
    check: OutputCheck | None = None,
    slip_bound_s: float = SLIP_BOUND_S,
) -> Validity:
    """Return whether a run measured the fleet rather than this machine, with the figures."""
    finished = sum(record.status is Status.FINISHED for record in records)
    slip_p99_s = Quantiles.of([record.slip_s for record in records]).p99 or 0.0
    unchecked = check.unchecked if check else 0
    return Validity.of(fleet, finished, slip_p99_s, slip_bound_s, unchecked)


def _latencies(records: Sequence[Record]) -> dict[str, Spread]:
    done = [record for record in records if record.status is Status.FINISHED]
    return {
        "ttft_s": Spread.of([record.ttft_s for record in done]),
        "tpot_s": Spread.of([record.tpot_s for record in done]),
        "e2e_s": Spread.of([record.e2e_s for record in done]),
    }


def _by_class(records: Sequence[Record], latencies: dict[str, Spread]) -> dict[str, ClassResult]:
    names = sorted({record.request.class_name for record in records})
    if len(names) == 1:
        return {names[0]: ClassResult(len(records), **latencies)}
    groups = {name: [r for r in records if r.request.class_name == name] for name in names}
    return {name: ClassResult(len(group), **_latencies(group)) for name, group in groups.items()}


def _duration_s(records: Sequence[Record]) -> float:
    """Return the time from the start of the workload to the last event known of it."""
    return max((record.ended_s for record in records), default=0.0)


def _goodput(records: Sequence[Record], slo: Slo | None, duration_s: float) -> Goodput | None:
    if slo is None or not records or duration_s <= 0:
        return None
    good = sum(slo.met(record) for record in records)

    def bound(value: float) -> float | None:
        return value if value < float("inf") else None

    return Goodput(
        round(good / len(records), 6),
        round(good / duration_s, 6),
        bound(slo.ttft_s),
        bound(slo.tpot_s),
    )


def _errors(records: Sequence[Record], most: int = 10) -> tuple[str, ...]:
    """Return the distinct errors, most frequent first."""
    texts = Counter(record.error for record in records if record.error)
    ranked = sorted(texts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(f"{times} x {text}" for text, times in ranked[:most])
