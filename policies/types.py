"""The value types everything else is written in: snapshots in, decisions out."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NewType

import numpy as np
import numpy.typing as npt

from policies.groups import ANY, Group

InstanceId = NewType("InstanceId", str)
RequestId = NewType("RequestId", str)
MigrationId = NewType("MigrationId", str)

IntColumn = npt.NDArray[np.int64]
FloatColumn = npt.NDArray[np.float64]
BoolColumn = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """A named class of requests; classes are ordered from most to least urgent.

    `headroom_tokens` is KV memory an instance counts as used as soon as it runs one request of the
    class, to keep the batch small and therefore fast (paper, Algorithm 1).
    """

    name: str
    headroom_tokens: int = 0


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """What one llumlet reports about its instance; only per instance, never per request.

    `running` and `waiting` count requests by class, in the order of the configured classes. Tokens
    are KV tokens. `physical_tokens` is what running requests hold, whole blocks included;
    `queued_demand_tokens` what all waiting requests need to start, `head_demand_tokens` the first
    of them alone. `prefill_backlog_tokens` is what both must still compute before their next token.
    `reserved_tokens` is held for requests migrating in. `terminating` marks an instance being
    drained. `unclassed_running` and `unclassed_waiting` count requests whose class the instance
    does not know because they bypassed every frontend.
    """

    instance_id: InstanceId
    capacity_tokens: int
    physical_tokens: int
    head_demand_tokens: int
    queued_demand_tokens: int
    running: tuple[int, ...]
    waiting: tuple[int, ...]
    reserved_tokens: int = 0
    prefill_backlog_tokens: int = 0
    terminating: bool = False
    reported_at_s: float = 0.0
    unclassed_running: int = 0
    unclassed_waiting: int = 0

    def received(
        self, instance_id: InstanceId, at_s: float, *, terminating: bool
    ) -> "InstanceLoad":
        """Return the load under the name we know the instance by, as of when it came."""
        return InstanceLoad(  # `replace` takes several times as long, and this is every report
            instance_id,
            self.capacity_tokens,
            self.physical_tokens,
            self.head_demand_tokens,
            self.queued_demand_tokens,
            self.running,
            self.waiting,
            self.reserved_tokens,
            self.prefill_backlog_tokens,
            terminating,
            at_s,
            self.unclassed_running,
            self.unclassed_waiting,
        )

    def classed(self, default_class: int) -> "InstanceLoad":
        """Return the load with the requests of no known class counted as of this one."""
        if not (self.unclassed_running or self.unclassed_waiting):
            return self
        return replace(
            self,
            running=_plus(self.running, default_class, self.unclassed_running),
            waiting=_plus(self.waiting, default_class, self.unclassed_waiting),
            unclassed_running=0,
            unclassed_waiting=0,
        )


def _plus(counts: tuple[int, ...], index: int, more: int) -> tuple[int, ...]:
    padded = [*counts, *(0,) * (index + 1 - len(counts))]
    padded[index] += more
    return tuple(padded)


class InstanceIds(tuple[InstanceId, ...]):
    """The ids of a snapshot's rows, in order, and where each is: shared by snapshots alike."""

    @cached_property
    def rows(self) -> Mapping[InstanceId, int]:
        """The row of each id."""
        return {instance_id: row for row, instance_id in enumerate(self)}


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """All instances at one time, columnar: row *i* of every column is `ids[i]`.

    `class_running` and `class_waiting` have shape (instances, classes). `age_s` is the age of each
    row. The `in_flight_*` columns hold what was dispatched but not yet reported by the instance
    (zeros in a raw snapshot; the scheduler's ledger fills them in: polled load alone herds).
    `group` is a row's position in `groups`: nothing is dispatched or paired across groups.
    """

    ids: tuple[InstanceId, ...]
    capacity_tokens: IntColumn
    physical_tokens: IntColumn
    head_demand_tokens: IntColumn
    queued_demand_tokens: IntColumn
    reserved_tokens: IntColumn
    prefill_backlog_tokens: IntColumn
    class_running: IntColumn
    class_waiting: IntColumn
    terminating: BoolColumn
    age_s: FloatColumn
    in_flight_tokens: IntColumn
    in_flight_requests: IntColumn
    group: IntColumn
    groups: tuple[Group, ...] = (ANY,)

    @property
    def rows(self) -> Mapping[InstanceId, int]:
        """The row of each instance."""
        ids = self.ids
        return ids.rows if isinstance(ids, InstanceIds) else InstanceIds(ids).rows

    @classmethod
    def of(
        cls,
        loads: Sequence[InstanceLoad],
        now_s: float,
        classes: int,
        groups: Sequence[Group] | None = None,
    ) -> "FleetSnapshot":
        """Build a snapshot from reports; `classes` is the number of configured classes.

        `groups` are those of the loads, one each; None when all instances are alike. Every request
        in them must have a class (`InstanceLoad.classed`).
        """
        assert not any(load.unclassed_running or load.unclassed_waiting for load in loads), loads

        def column(values: Sequence[int]) -> IntColumn:
            return np.array(values, dtype=np.int64)

        def table(rows: Sequence[tuple[int, ...]]) -> IntColumn:
            padded = [row + (0,) * (classes - len(row)) for row in rows]
            return np.array(padded, dtype=np.int64).reshape(len(rows), classes)

        zeros = np.zeros(len(loads), dtype=np.int64)
        number = {group: at for at, group in enumerate(dict.fromkeys(groups or ()))}
        return cls(
            ids=InstanceIds(load.instance_id for load in loads),
            capacity_tokens=column([load.capacity_tokens for load in loads]),
            physical_tokens=column([load.physical_tokens for load in loads]),
            head_demand_tokens=column([load.head_demand_tokens for load in loads]),
            queued_demand_tokens=column([load.queued_demand_tokens for load in loads]),
            reserved_tokens=column([load.reserved_tokens for load in loads]),
            prefill_backlog_tokens=column([load.prefill_backlog_tokens for load in loads]),
            class_running=table([load.running for load in loads]),
            class_waiting=table([load.waiting for load in loads]),
            terminating=np.array([load.terminating for load in loads], dtype=np.bool_),
            age_s=np.array([now_s - load.reported_at_s for load in loads], dtype=np.float64),
            in_flight_tokens=zeros,
            in_flight_requests=zeros.copy(),
            group=column([number[one] for one in groups]) if groups else zeros.copy(),
            groups=tuple(number) or (ANY,),
        )


@dataclass(frozen=True, slots=True)
class DispatchRequest:
    """What the scheduler knows of a request before it runs; output length is unknown.

    `model` is the one that must serve it; None where every instance will do.
    """

    request_id: RequestId
    class_index: int
    prompt_tokens: int
    arrived_at_s: float
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision was taken: every candidate's score, and why the others were excluded."""

    policy: str
    scores: Mapping[InstanceId, float] = field(default_factory=dict)
    vetoed: Mapping[InstanceId, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the request to this instance now."""

    instance_id: InstanceId
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the request in the frontend's queue: no instance could start it soon."""

    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the request; `reason` is shown to the client."""

    reason: str
    explanation: Explanation


DispatchDecision = Dispatch | Hold | Reject


class MigrateReason(enum.StrEnum):
    """What a migration is for, unless a custom proposer names its own reason."""

    REBALANCE = "rebalance"
    DRAIN = "drain"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class MigrateOrder:
    """Move one request from source to destination; the source's llumlet picks which.

    `max_context_tokens` bounds the context of the request picked, so that the destination does not
    end up below the source. `reason` is a `MigrateReason`, or the name of another proposer.
    `expected_tokens` is what will probably move; None counts as the bound.
    """

    source: InstanceId
    destination: InstanceId
    max_context_tokens: int
    reason: str
    explanation: Explanation
    expected_tokens: int | None = None


class RequestPhase(enum.StrEnum):
    """How far a request has come on its instance."""

    QUEUED = "queued"
    PREFILL = "prefill"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class RequestView:
    """One request as its llumlet sees it, for choosing what to move.

    `context_tokens` counts tokens whose KV exists. `movable` is False for what the engine cannot
    move (say, a request already migrating).
    """

    request_id: RequestId
    class_index: int
    phase: RequestPhase
    context_tokens: int
    arrived_order: int
    movable: bool = True
    moved_at_s: float = float("-inf")
