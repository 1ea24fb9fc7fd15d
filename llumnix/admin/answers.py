"""The admin API's account of a fleet, typed: what the commands and the live view work on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance; tokens are KV tokens, freeness decode steps, `age_s` fleet seconds.

    `freeness` and `age_s` are None while the instance has never reported.
    """

    instance_id: str
    url: str
    state: str
    kind: str
    capacity_tokens: int
    physical_tokens: int
    reserved_tokens: int
    freeness: float | None
    running: int
    waiting: int
    age_s: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Read one row of the answer; what is missing is taken as nothing."""
        return cls(
            instance_id=str(row.get("id", "?")),
            url=str(row.get("url", "")),
            state=str(row.get("state", "?")),
            kind=str(row.get("kind", "")),
            capacity_tokens=int(row.get("capacity_tokens") or 0),
            physical_tokens=int(row.get("physical_tokens") or 0),
            reserved_tokens=int(row.get("reserved_tokens") or 0),
            freeness=_number(row.get("freeness")),
            running=_count(row.get("running")),
            waiting=_count(row.get("waiting")),
            age_s=_number(row.get("age_s")),
        )

    @property
    def used_share(self) -> float:
        """Share of the KV memory held by running requests."""
        return self.physical_tokens / self.capacity_tokens if self.capacity_tokens else 0.0


@dataclass(frozen=True, slots=True)
class MigrationView:
    """One migration under way; `started_s` is fleet time."""

    migration_id: str
    request_id: str
    source: str
    destination: str
    started_s: float
    reason: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Read one row of the answer."""
        return cls(
            migration_id=str(row.get("migration_id", "")),
            request_id=str(row.get("request_id") or ""),
            source=str(row.get("source", "?")),
            destination=str(row.get("destination", "?")),
            started_s=float(row.get("started_s") or 0.0),
            reason=str(row.get("reason", "")),
        )


@dataclass(frozen=True, slots=True)
class FleetView:
    """The whole fleet at one moment of fleet time, `now_s`."""

    policy: str
    migration: bool
    speed: float
    now_s: float
    queue_length: int
    queue_limit: int
    instances: tuple[InstanceView, ...]
    migrations: tuple[MigrationView, ...]
    totals: Mapping[str, int]
    downtime_ms: tuple[float, ...]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """Read the answer of GET /llumnix/fleet."""
        queue = answer.get("queue") or {}
        totals = answer.get("totals") or {}
        return cls(
            policy=str(answer.get("policy", "?")),
            migration=bool(answer.get("migration")),
            speed=float(answer.get("speed") or 1.0),
            now_s=float(answer.get("now_s") or 0.0),
            queue_length=_count(queue.get("length")),
            queue_limit=_count(queue.get("limit")),
            instances=tuple(InstanceView.of(row) for row in answer.get("instances") or ()),
            migrations=tuple(MigrationView.of(row) for row in answer.get("migrations") or ()),
            totals={name: value for name, value in totals.items() if isinstance(value, int)},
            downtime_ms=tuple(float(value) for value in totals.get("downtime_ms") or ()),
        )

    def instance(self, instance_id: str) -> InstanceView | None:
        """Find an instance by its id."""
        found = [each for each in self.instances if each.instance_id == instance_id]
        return found[0] if found else None

    def leaving(self, instance_id: str) -> int:
        """Count the migrations under way out of an instance."""
        return sum(each.source == instance_id for each in self.migrations)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _count(value: object) -> int:
    """Read a count, or counts by class."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(int(part) for part in value)
    return int(value) if isinstance(value, int | float) else 0
