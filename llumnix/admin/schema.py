"""The objects of the admin API (`/llumnix/…`), typed once for frontends and their clients.

Every class is one JSON object. Keys never change; a new one needs a default, for frontends that are
older than their clients.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from llumnix.admin.answer import Answer, key, read_answer, read_value, write_answer


@dataclass(frozen=True, slots=True)
class InstanceStatus(Answer):
    """One instance; tokens are KV tokens, freeness decode steps, `age_s` fleet seconds.

    `freeness` is None while the instance is down or being drained; `age_s`, the age of its last
    report, is None while it is down. While it is not up, or left alone (hung, failing, busy),
    `reason` is the kind of cause, in one word, and `detail` says what happened and what to do.
    """

    instance_id: str = field(metadata=key("id"))
    url: str = ""
    state: str = ""
    kind: str = ""
    engine: str = ""
    capacity_tokens: int = 0
    physical_tokens: int = 0
    freeness: float | None = None
    running: int = 0
    waiting: int = 0
    reserved_tokens: int = 0
    prefill_backlog_tokens: int = 0
    age_s: float | None = None
    reason: str = ""
    detail: str = ""

    @property
    def down(self) -> bool:
        """Whether it is down, having been up before."""
        return self.state == "down"

    @property
    def used_share(self) -> float:
        """The share of the KV cache held by running requests."""
        return self.physical_tokens / self.capacity_tokens if self.capacity_tokens else 0.0


@dataclass(frozen=True, slots=True)
class MigrationStatus(Answer):
    """One migration in progress; `started_s` is fleet time. The source may still be choosing."""

    migration_id: str
    request_id: str | None = None
    source: str = ""
    destination: str = ""
    started_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class QueueStatus(Answer):
    """The frontend's queue, in requests."""

    length: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class SourceStatus(Answer):
    """A place where the fleet learns of instances; `reason` is why it fails, empty if it works."""

    source: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Totals(Answer):
    """Counts since the frontend started; the pauses are those of recent moves."""

    requests: int = 0
    finished: int = 0
    failed: int = 0
    rejected: int = 0
    cancelled: int = 0
    resumed: int = 0
    migrations_committed: int = 0
    migrations_aborted: int = 0
    migrations_refused: int = 0
    stream_mismatches: int = 0
    streams_open: int = 0
    downtime_ms: tuple[float, ...] = ()
    gap_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetStatus(Answer):
    """GET /llumnix/fleet: the whole fleet at one moment of fleet time, `now_s`."""

    instances: tuple[InstanceStatus, ...]
    policy: str = ""
    migration: bool = False
    speed: float = 1.0
    now_s: float = 0.0
    classes: tuple[str, ...] = ()
    queue: QueueStatus = QueueStatus()
    migrations: tuple[MigrationStatus, ...] = ()
    totals: Totals = Totals()
    sources: tuple[SourceStatus, ...] = ()

    def instance(self, instance_id: str) -> InstanceStatus | None:
        """Return an instance by its id."""
        return next((each for each in self.instances if each.instance_id == instance_id), None)

    def leaving(self, instance_id: str) -> int:
        """Count the migrations in progress out of an instance."""
        return sum(each.source == instance_id for each in self.migrations)


@dataclass(frozen=True, slots=True)
class RequestStatus(Answer):
    """An entry of GET /llumnix/requests: a request being served; `tokens` counts outputs so far.

    `why` says what keeps a request that is not `movable` on its instance.
    """

    request_id: str
    instance_id: str | None = None
    class_name: str = field(default="", metadata=key("class"))
    state: str = ""
    age_s: float = 0.0
    tokens: int = 0
    movable: bool = True
    why: str = ""


@dataclass(frozen=True, slots=True)
class DecisionRecord(Answer):
    """One decision about a request, with its reason. `at_s` is fleet time."""

    at_s: float
    kind: str
    instance_id: str | None = None
    policy: str = ""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    vetoed: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class RequestDecisions(Answer):
    """GET /llumnix/explain/ID: the decisions about a request, in order."""

    request_id: str
    decisions: tuple[DecisionRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class DrainStatus(Answer):
    """POST /llumnix/drain: the instance, and its state from now on."""

    instance_id: str
    state: str


@dataclass(frozen=True, slots=True)
class MemberStatus(Answer):
    """POST /llumnix/instances, DELETE /llumnix/instances/ID: the instance, and its state now.

    The state of one that has left is `removed`.
    """

    instance_id: str
    url: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class EventRecord(Answer):
    """One event. `at_s` is fleet time; the keys of `more` stand beside these, not below."""

    seq: int
    kind: str
    at_s: float = 0.0
    text: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """See Answer."""
        own = write_answer(self)
        return {**own.pop("more"), **own}

    @classmethod
    def from_json(cls, plain: object) -> Self:
        """See Answer."""
        if isinstance(plain, Mapping):
            own = {item.name for item in dataclasses.fields(cls)} - {"more"}
            more = {key: value for key, value in plain.items() if key not in own}
            plain = {**{key: plain[key] for key in own & plain.keys()}, "more": more}
        return read_answer(cls, plain)


@dataclass(frozen=True, slots=True)
class News(Answer):
    """GET /llumnix/events: the remembered events newer than asked for; continue from `next`."""

    next: int
    events: tuple[EventRecord, ...] = ()


def read_requests(plain: object) -> tuple[RequestStatus, ...]:
    """Read the response of GET /llumnix/requests; raises SchemaError."""
    rows: tuple[RequestStatus, ...] = read_value(tuple[RequestStatus, ...], plain, "requests")
    return rows
