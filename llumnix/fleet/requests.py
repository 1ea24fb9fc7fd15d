"""The requests that the frontend is serving, and why each went where it went."""

import enum
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from llumnix.admin.schema import DecisionRecord
from llumnix.fleet.account import Account
from llumnix.instances.instance import Instance
from policies.types import Explanation, InstanceId, MigrationId, RequestId

_REQUESTS_EXPLAINED = 4096
_DECISIONS_KEPT = 16


def nothing() -> None:
    """Do nothing: there is nothing to cut."""


class Cuttable(Protocol):
    """Something that waits for an instance and must stop once the instance is found dead."""

    def cut_by(self, cut: Callable[[], None]) -> None:
        """Set the function that ends the wait."""


class Follower(Protocol):
    """Follows a request that is being migrated."""

    def started(self, migration_id: MigrationId, source: InstanceId) -> None:
        """A migration has begun to take the request away from `source`."""

    def ended(self, migration_id: MigrationId) -> None:
        """A migration failed: the request stays where it is."""

    def can_be_handed_to(self, target: Instance) -> bool:
        """Return whether the frontend can resume the request on an instance by recompute."""

    async def hand_over(self, target: Instance) -> bool:
        """Move the request there by recompute; return whether it moved."""


class _Nobody:
    """Follows no request."""

    def started(self, migration_id: MigrationId, source: InstanceId) -> None:
        """Do nothing."""

    def ended(self, migration_id: MigrationId) -> None:
        """Do nothing."""

    def can_be_handed_to(self, target: Instance) -> bool:
        """Return False."""
        del target
        return False

    async def hand_over(self, target: Instance) -> bool:
        """Return False."""
        del target
        return False


NOBODY: Follower = _Nobody()


class ActiveState(enum.StrEnum):
    """How far a request has come, as its frontend sees it."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    MOVING = "moving"


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """A request from arrival to end. `since_s` is fleet time.

    `tokens` counts output tokens so far. `cut` is called when the request's instance is found dead,
    to end any wait for it. `follower` is told of the request's migrations. In wall seconds:
    `placed_at_s` is when it was sent to its present instance, `flows_since_s` when it first
    produced something new there, None if it has not yet; `heard_at_s` returns when it last did.
    `account` is what its line in the log will say. `immovable` says why it cannot be moved; empty
    if it can.
    """

    request_id: RequestId
    class_name: str
    since_s: float
    state: ActiveState = ActiveState.QUEUED
    instance_id: InstanceId | None = None
    tokens: Callable[[], int] = int
    cut: Callable[[], None] = nothing
    follower: Follower = NOBODY
    placed_at_s: float = 0.0
    flows_since_s: float | None = None
    heard_at_s: Callable[[], float] = float
    account: Account = field(default_factory=Account)
    immovable: str = ""

    @property
    def shown_id(self) -> str:
        """Return its id as its client knows it."""
        return self.account.client_id or self.request_id

    def goes_to(self, instance_id: InstanceId) -> None:
        """Note where the request is sent."""
        self.instance_id = instance_id
        self.flows_since_s = None
        self.placed_at_s = time.monotonic()
        self.account.sent_to(instance_id)

    def cut_by(self, cut: Callable[[], None]) -> None:
        """Set the function that ends the wait for the instance."""
        self.cut = cut


class DecisionKind(enum.StrEnum):
    """The kind of a decision about a request."""

    DISPATCH = "dispatch"
    HOLD = "hold"
    REJECT = "reject"
    MIGRATE = "migrate"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about a request. `at_s` is fleet time."""

    at_s: float
    kind: DecisionKind
    instance_id: InstanceId | None
    explanation: Explanation

    def record(self) -> DecisionRecord:
        """Return this as the admin API reports it."""
        why = self.explanation
        return DecisionRecord(
            at_s=round(self.at_s, 6),
            kind=self.kind,
            instance_id=self.instance_id,
            policy=why.policy,
            scores={name: _finite(score) for name, score in why.scores.items()},
            vetoed=dict[str, str](why.vetoed.items()),
            note=why.note,
        )


class RequestTable:
    """Active requests by id, and the decisions about these and about some that have ended."""

    def __init__(self) -> None:
        self.active: dict[RequestId, ActiveRequest] = {}
        self._decisions: OrderedDict[RequestId, list[Decision]] = OrderedDict()

    def open(self, request: ActiveRequest) -> None:
        """Add a request. Its id must not be in use."""
        assert request.request_id not in self.active, request.request_id
        self.active[request.request_id] = request

    def close(self, request_id: RequestId) -> None:
        """Remove a request that has ended; the decisions about it are kept for a while."""
        del self.active[request_id]

    def at(self, instance_id: InstanceId) -> list[ActiveRequest]:
        """Return the active requests on an instance."""
        return [each for each in self.active.values() if each.instance_id == instance_id]

    def flowed_at_s(self, instance_id: InstanceId) -> float:
        """Return when a stream of an instance last brought something, in wall seconds; 0: never."""
        return max((each.heard_at_s() for each in self.at(instance_id)), default=0.0)

    def decided(self, request_id: RequestId, decision: Decision) -> None:
        """Record a decision; repeated holds count once, with the latest reason."""
        known = self._decisions.setdefault(request_id, [])
        if known and known[-1].kind is decision.kind is DecisionKind.HOLD:
            known.pop()
        known.append(decision)
        del known[:-_DECISIONS_KEPT]
        while len(self._decisions) > _REQUESTS_EXPLAINED:
            self._decisions.popitem(last=False)

    def explain(self, request_id: RequestId) -> list[Decision] | None:
        """Return the decisions about a request; None if it is not known (any more)."""
        return self._decisions.get(request_id)


def _finite(score: float) -> float | None:
    """Drop infinite scores, which JSON lacks: an instance that may not be chosen has no score."""
    return score if abs(score) != float("inf") else None
