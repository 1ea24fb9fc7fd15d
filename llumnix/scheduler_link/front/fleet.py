"""A fleet that is in another process: what its frontend needs of it, kept up to date here.

Requests are placed, and judged, there. What must not wait for an answer is known here: where a
migration goes, which instances are up, and what they are.
"""

import time
from collections.abc import Callable

from llumnix.fleet import bearings
from llumnix.fleet.clock import FleetClock
from llumnix.fleet.migrations.destinations import Destinations
from llumnix.fleet.placement import PlacementRequest
from llumnix.fleet.recall import NOTHING, Remembered, of_plain
from llumnix.frontend.request.request import request_id
from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import Instance
from llumnix.instances.table import InstanceTable
from llumnix.metrics.tally import Tally
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.front.health import Ask, FarHealth
from llumnix.scheduler_link.front.requests import ToldRequestTable
from llumnix.scheduler_link.front.stopgap import least_in_flight
from llumnix.scheduler_link.messages import Asked, Kind
from policies.types import MigrationId, RequestId


class FarFleet:
    """The frontend's side of a fleet; `post` sends a message, `ask` asks for an answer.

    `epoch_s` is when the fleet's clock began, in seconds of `clock`.
    """

    far = True

    def __init__(
        self,
        config: FleetConfig,
        n_classes: int,
        secret: bytes,
        tally: Tally,
        epoch_s: float,
        post: Callable[[Message], None],
        ask: Ask,
    ) -> None:
        self.config = config
        self.secret = secret
        self.tally = tally
        self.clock = FleetClock(config.speed)
        self.instances = InstanceTable(n_classes, self.now_s)
        self.requests = ToldRequestTable(post)
        self.health = FarHealth(config.max_poisoned, self.requests, post, ask)
        self.destinations = Destinations()
        self._epoch_s = epoch_s
        self._post = post
        self._ask = ask

    def now_s(self) -> float:
        """Return the time on the fleet's clock."""
        return self.clock.now_s() - self._epoch_s

    def follow(self, now_s: float) -> None:
        """Set the fleet's clock by the scheduler's; what requests say of their age stays true."""
        later_s, self._epoch_s = now_s - self.now_s(), self.clock.now_s() - now_s
        for each in self.requests.active.values():
            each.since_s += later_s

    async def unique_id(self, wanted: str) -> str:
        """Return the id that a request gets whose client wants this one: other frontends have ids.

        Without a scheduler to ask, it is one that no other frontend can come upon.
        """
        try:
            given = await self._ask(Asked.UNIQUE_ID, [wanted])
        except BaseException:
            self._post([Kind.CLOSED, wanted])
            raise
        return request_id(wanted, {wanted: None}) if given is None else str(given)

    def forget(self, request_id: RequestId) -> None:
        """Note that a request will be dispatched again; that it is over, the table says."""
        if request_id in self.requests.active:
            self.requests.tell()
            self._post([Kind.FORGET, request_id])

    def suspect(self, instance: Instance, reason: str) -> None:
        """Take an instance out at once because it refused a connection; its keeper tries again."""
        instance.lose()
        self.requests.tell()
        self._post([Kind.SUSPECT, instance.id, reason])

    def works(self, instance: Instance) -> bool:
        """Return whether an instance was just seen to work, by anybody."""
        flowed_at_s = self.requests.flowed_at_s(instance.id)
        return bearings.works(instance, flowed_at_s, self.config.poll_interval_s, time.monotonic())

    def serves(self, model: str) -> bool:
        """Return whether a model may be served: an instance has it, or none is there to ask."""
        return bearings.serves(self.instances, model)

    async def finds(self, model: str) -> bool:
        """Return whether a model may be served, after asking the instances again if none has it."""
        if not self.serves(model):
            await self._ask(Asked.MODELS, [])
        return self.serves(model)

    def only_model(self) -> str | None:
        """Return the fleet's only model, for requests that name none; None if there are several."""
        return bearings.only_model(self.instances)

    async def recall(self, request_id: str, owner: str, timeout_s: float) -> Remembered:
        """Return what instances remember of a request; nothing if there is no scheduler to ask."""
        told = await self._ask(Asked.RECALL, [request_id, owner, timeout_s])
        return NOTHING if told is None else of_plain(told)

    def claim_of(self, request_id: RequestId) -> tuple[MigrationId, Instance] | None:
        """Return where a request is migrating, or has just migrated; None if it is not."""
        migration_id = self.destinations.of_request(request_id)
        return None if migration_id is None else self.claim_at(migration_id)

    def claim_at(self, migration_id: MigrationId) -> tuple[MigrationId, Instance] | None:
        """Return the destination of a migration; None if it is unknown or not alive."""
        instance = self.instances.get(self.destinations.destination_of(migration_id))
        return (migration_id, instance) if instance is not None and instance.alive else None

    def claimed(self, request_id: RequestId, migration_id: MigrationId) -> None:
        """Note that a migrated request has been claimed: its migration no longer locates it."""
        self.destinations.over(request_id, migration_id)
        self.requests.tell()
        self._post([Kind.CLAIMED, request_id, migration_id])

    def stopgap(self, ask: PlacementRequest) -> Instance | None:
        """Choose an instance for a request without a scheduler."""
        return least_in_flight(ask, self.instances.up(), self.requests.count_at)

    def able(self) -> dict[str, list[str]]:
        """Return where requests could be handed over to that are on servers being drained.

        Only for servers without the plugin: others are emptied by their llumlets.
        """
        told: dict[str, list[str]] = {}
        for origin in self.instances:
            if origin.draining and not origin.plugged and origin.alive:
                self._note_able(origin, told)
        return told

    def able_from(self, instance_id: str) -> dict[str, list[str]]:
        """Return where the requests on one instance could be handed over to."""
        told: dict[str, list[str]] = {}
        origin = self.instances.get(instance_id)
        if origin is not None:
            self._note_able(origin, told)
        return told

    def _note_able(self, origin: Instance, told: dict[str, list[str]]) -> None:
        targets = [each for each in self.instances.up() if each is not origin]
        for active in self.requests.at(origin.id):
            able = [each.id for each in targets if active.follower.can_be_handed_to(each)]
            told[active.request_id] = [str(each) for each in able]
