"""What the frontend needs of its fleet and of the queue in front of it, wherever these are.

In one process these are `Fleet` and `HoldQueue` themselves; in a worker they are the ends of a link
to the process that has them (`llumnix/scheduler_link/front`).
"""

import asyncio
from typing import Protocol

from llumnix.fleet.clock import FleetClock
from llumnix.fleet.placement import PlacementRequest
from llumnix.fleet.recall import Remembered
from llumnix.fleet.requests import RequestTable
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from llumnix.instances.table import InstanceTable
from llumnix.metrics.tally import Tally
from policies.types import InstanceId, MigrationId, RequestId


class Suspicions(Protocol):
    """Which requests are thought to crash engines; see `llumnix.fleet.faults.suspects`."""

    limit: int

    @property
    def any_condemned(self) -> bool:
        """Whether any body is remembered, so that bodies are worth hashing."""

    def condemned(self, digest: bytes, now_s: float) -> bool:
        """Return whether a request with this body was convicted lately."""

    def condemn(self, digest: bytes, now_s: float) -> None:
        """Remember the body of a convicted request."""

    def convicted(self, request_id: RequestId) -> tuple[InstanceId, ...]:
        """Return the instances that a convicted request took down; none for any other request."""

    def forget(self, request_id: RequestId) -> None:
        """Note that a request has ended."""


class Health(Protocol):
    """Takes note of what requests go through; see `llumnix.fleet.faults.health`."""

    @property
    def suspects(self) -> Suspicions:
        """Return who is thought to crash engines."""

    async def judged(self, request_id: RequestId) -> None:
        """Wait until all that was noted is judged, so that `suspects` knows it."""

    def served(self, instance: Instance) -> None:
        """Note that an instance answered a request."""

    def failed(self, instance: Instance, request_id: RequestId, kind: str, detail: str) -> None:
        """Note that an instance failed a request, of its own fault."""

    def passed_by(self, instance: Instance, request_id: RequestId, detail: str) -> None:
        """Note that an instance that works has left a request waiting for too long."""

    def trip(self, instance: Instance, reason: str) -> None:
        """Leave an instance alone for a while, and then probe it."""

    def busy(self, instance: Instance, request_id: RequestId, retry_after_s: float) -> None:
        """Note that an instance has no room, and for how long it wants to be left alone."""

    def starved(self, detail: str) -> None:
        """Note that this process is out of files, ports or memory."""

    def left(self, instance: Instance, request_id: RequestId) -> None:
        """Note that a request's connection to an instance failed while it may have been on it."""

    def died(self, instance: Instance) -> None:
        """Note that an instance was found dead."""

    def flows(self, request_id: RequestId) -> None:
        """Note that a request produces something on its instance."""

    def convict(self, request_id: RequestId, instances: tuple[InstanceId, ...]) -> None:
        """Say which request took instances down."""


class ServedFleet(Protocol):
    """The fleet as its frontend sees it; see `llumnix.fleet.fleet.Fleet`.

    `far`: it is in another process, and has other frontends.
    """

    instances: InstanceTable
    tally: Tally
    clock: FleetClock
    secret: bytes
    far: bool

    @property
    def requests(self) -> RequestTable:
        """Return the requests that this frontend serves."""

    @property
    def health(self) -> Health:
        """Return what takes note of failures."""

    def now_s(self) -> float:
        """Return the time on the fleet's clock."""

    async def unique_id(self, wanted: str) -> str:
        """Return the id that a request gets whose client wants this one."""

    def forget(self, request_id: RequestId) -> None:
        """Note that a request is over, or will be dispatched again."""

    def suspect(self, instance: Instance, reason: str) -> None:
        """Take an instance out at once because it refused a connection."""

    def works(self, instance: Instance) -> bool:
        """Return whether an instance was just seen to work."""

    def serves(self, model: str) -> bool:
        """Return whether a model may be served: an instance has it, or none is there to ask."""

    async def finds(self, model: str) -> bool:
        """Return whether a model may be served, after asking the instances again if none has it."""

    def only_model(self) -> str | None:
        """Return the fleet's only model; None if there are several."""

    async def recall(self, request_id: str, owner: str, timeout_s: float) -> Remembered:
        """Return what instances remember of a request whose client has come back."""

    def claim_of(self, request_id: RequestId) -> tuple[MigrationId, Instance] | None:
        """Return where a request is migrating, or has just migrated; None if it is not."""

    def claim_at(self, migration_id: MigrationId) -> tuple[MigrationId, Instance] | None:
        """Return the destination of a migration; None if it is unknown or not alive."""

    def claimed(self, request_id: RequestId, migration_id: MigrationId) -> None:
        """Note that a migrated request has been claimed: its migration no longer locates it."""


class Placing(Protocol):
    """A request that waits for an instance; `leave` once nobody waits for `placed` any more."""

    @property
    def placed(self) -> "asyncio.Future[Instance | Refusal]":
        """Where it is placed, once it is."""

    def leave(self) -> None:
        """Take it out of the queue, if it still is there."""


class Queue(Protocol):
    """Where requests wait for an instance; see `llumnix.frontend.queue.HoldQueue`."""

    def place_soon(self, ask: PlacementRequest) -> Placing | None:
        """Ask for an instance without waiting for it; None: only `place` can."""

    def place_now(self, ask: PlacementRequest) -> Instance | None:
        """Place a new request at once, if that is possible; None: ask with `place`."""

    async def place(self, ask: PlacementRequest) -> Instance | Refusal:
        """Wait for an instance; a Refusal if the queue is full or the wait too long."""

    def retry(self) -> None:
        """Note that requests which wait might be placed now."""

    def reconfigure(self, limit: int, timeout_s: float, retry_after_s: float) -> None:
        """Change the bounds for requests that join from now on."""
