"""The requests that the frontend is serving, and where each is."""

import enum
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from llumnix.fleet.account import Account
from llumnix.fleet.decisions.decision import Decision
from llumnix.fleet.decisions.memory import DecisionMemory
from llumnix.instances.instance import Instance
from policies.types import InstanceId, MigrationId, RequestId

_SENT_KEPT_S = 5.0
"""For how long it is remembered that a request was sent somewhere."""


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
    tokens: Callable[[], int] = int
    cut: Callable[[], None] = nothing
    follower: Follower = NOBODY
    placed_at_s: float = 0.0
    flows_since_s: float | None = None
    heard_at_s: Callable[[], float] = float
    account: Account = field(default_factory=Account)
    immovable: str = ""
    places: "Places" = field(default_factory=lambda: NOWHERE)
    _instance_id: InstanceId | None = None

    @property
    def instance_id(self) -> InstanceId | None:
        """Where it is; None while it is nowhere."""
        return self._instance_id

    @instance_id.setter
    def instance_id(self, instance_id: InstanceId | None) -> None:
        before, self._instance_id = self._instance_id, instance_id
        if instance_id != before:
            self.places.moved(self, before, instance_id)

    @property
    def shown_id(self) -> str:
        """Return its id as its client knows it."""
        return self.account.client_id or self.request_id

    def goes_to(self, instance_id: InstanceId) -> None:
        """Note where the request is sent."""
        self.instance_id = instance_id
        self.flows_since_s = None
        self.placed_at_s = time.monotonic()
        self.places.sent(self)
        self.account.sent_to(instance_id)

    def cut_by(self, cut: Callable[[], None]) -> None:
        """Set the function that ends the wait for the instance."""
        self.cut = cut


class Places:
    """Which requests are where, kept up to date by the requests themselves."""

    def __init__(self) -> None:
        self._at: dict[InstanceId, dict[ActiveRequest, None]] = {}
        # Ids only: a request that has ended must not keep its stream in memory.
        self._sent: deque[tuple[float, RequestId]] = deque()

    def moved(
        self, request: ActiveRequest, before: InstanceId | None, now: InstanceId | None
    ) -> None:
        """Note that a request has left an instance, or come to one."""
        if before is not None:
            there = self._at[before]
            del there[request]
            if not there:
                del self._at[before]
        if now is not None:
            self._at.setdefault(now, {})[request] = None

    def sent(self, request: ActiveRequest) -> None:
        """Note that a request has just been sent to where it is."""
        now_s, sent = request.placed_at_s, self._sent
        sent.append((now_s, request.request_id))
        while now_s - sent[0][0] > _SENT_KEPT_S:
            sent.popleft()

    def at(self, instance_id: InstanceId) -> Collection[ActiveRequest]:
        """Return the requests at an instance."""
        return self._at.get(instance_id, ())

    def sent_since(self, since_s: float) -> set[RequestId]:
        """Return those that were sent somewhere since then: wall seconds, a few at most."""
        return {request_id for at_s, request_id in self._sent if at_s >= since_s}


class _Nowhere(Places):
    """Where requests are that are in no table: nothing is kept of them."""

    def moved(
        self, request: ActiveRequest, before: InstanceId | None, now: InstanceId | None
    ) -> None:
        """Do nothing."""

    def sent(self, request: ActiveRequest) -> None:
        """Do nothing."""


NOWHERE: Places = _Nowhere()


class RequestTable:
    """Active requests by id and by instance, and the decisions about these and some that ended."""

    def __init__(self) -> None:
        self.active: dict[RequestId, ActiveRequest] = {}
        self._places = Places()
        self._decisions = DecisionMemory()

    def open(self, request: ActiveRequest) -> None:
        """Add a request. Its id must not be in use."""
        assert request.request_id not in self.active, request.request_id
        self.active[request.request_id] = request
        request.places = self._places
        self._places.moved(request, None, request.instance_id)

    def close(self, request_id: RequestId) -> None:
        """Remove a request that has ended; the decisions about it are kept for a while."""
        request = self.active.pop(request_id)
        self._places.moved(request, request.instance_id, None)
        request.places = NOWHERE

    def at(self, instance_id: InstanceId) -> list[ActiveRequest]:
        """Return the active requests on an instance, in the order in which they came there."""
        return list(self._places.at(instance_id))

    def count_at(self, instance_id: InstanceId) -> int:
        """Count the active requests on an instance."""
        return len(self._places.at(instance_id))

    def placed_since(self, since_s: float) -> list[ActiveRequest]:
        """Return the active requests sent to an instance since then: a few wall seconds ago."""
        ids = self._places.sent_since(since_s)
        return [self.active[each] for each in ids if each in self.active]

    def flowed_at_s(self, instance_id: InstanceId) -> float:
        """Return when a stream of an instance last brought something, in wall seconds; 0: never."""
        return max((each.heard_at_s() for each in self._places.at(instance_id)), default=0.0)

    def decided(self, request_id: RequestId, decision: Decision) -> None:
        """Record a decision; repeated holds count once, with the latest reason."""
        self._decisions.add(request_id, decision)

    def explain(self, request_id: RequestId) -> list[Decision] | None:
        """Return the decisions about a request; None if it is not known (any more)."""
        return self._decisions.about(request_id)
