"""The fleet driver: snapshots in, decisions carried out.

It owns the instances, the scheduler and the record of migrations. Frontends ask it where a request
goes (`dispatch`) and where a migrated one went, and tell it what they find out about instances. It
makes no decision of its own but the obvious: an instance that is down gets nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import aiohttp

from llumnix.fleet import bearings
from llumnix.fleet.clock import FleetClock
from llumnix.fleet.decisions.decision import Decision, DecisionKind
from llumnix.fleet.events import EventRing
from llumnix.fleet.faults.health import FleetHealth
from llumnix.fleet.faults.trouble_log import TroubleLog
from llumnix.fleet.held import HeldRequests
from llumnix.fleet.links import Links
from llumnix.fleet.members import CONFIGURATION, Members
from llumnix.fleet.migrations.mover import Mover
from llumnix.fleet.model_catalog import ModelCatalog
from llumnix.fleet.placement import PlacementRequest as PlacementRequest
from llumnix.fleet.placement import candidates
from llumnix.fleet.recall import Remembered, recall
from llumnix.fleet.requests import RequestTable
from llumnix.fleet.scheduler import FleetScheduler
from llumnix.instances.condition.breaker import BreakerLimits
from llumnix.instances.condition.standstill import Motion
from llumnix.instances.condition.trouble import Trouble
from llumnix.instances.config import FleetConfig, InstanceSpec
from llumnix.instances.instance import Instance
from llumnix.instances.keeper import Keeper, Linker
from llumnix.instances.table import InstanceTable
from llumnix.metrics.tally import Tally
from llumnix.tasks import spawn
from migration.llumlet.fleet_messages import MigrationEvent
from policies.types import (
    Dispatch,
    DispatchRequest,
    Hold,
    MigrationId,
    Reject,
    RequestId,
)

log = logging.getLogger(__name__)

_KINDS = {
    Dispatch: DecisionKind.DISPATCH,
    Hold: DecisionKind.HOLD,
    Reject: DecisionKind.REJECT,
}


class Fleet:
    """Instances, scheduler, and the loop between them. Its clock starts at 0 with it.

    The scheduler is given to it, and used by nothing else. `changed` is called whenever a queued
    request might now be placed, but for what time alone changes. `linker` opens links to instances;
    only tests give one. `requests` is the table of those being served, `epoch_s` when the fleet's
    clock began, by `clock`, where others share either.
    """

    far = False

    def __init__(
        self,
        config: FleetConfig,
        scheduler: FleetScheduler,
        secret: bytes,
        tally: Tally,
        clock: FleetClock,
        linker: Linker | None = None,
        *,
        requests: RequestTable | None = None,
        epoch_s: float | None = None,
    ) -> None:
        self.config = config
        self.secret = secret
        self.clock = clock
        self.tally = tally
        self.scheduler = scheduler
        classes = scheduler.config.classes
        limits = BreakerLimits(config.breaker_failures, open_s=config.breaker_open_s)
        self.instances = InstanceTable(len(classes), self.now_s, limits)
        self.requests = RequestTable() if requests is None else requests
        self.events = EventRing()
        self._held = HeldRequests(self._could_start)
        self.health = FleetHealth(
            config.max_poisoned, self.requests, self.events, self.now_s, lambda: self.changed()
        )
        self._troubles = TroubleLog(self.events)
        self.changed: Callable[[], None] = lambda: None
        self.mover = Mover(
            self.scheduler,
            self.instances,
            self.requests,
            self.events,
            tally,
            self.now_s,
            config.order_timeout_s * clock.speed,
        )
        names = [known.name for known in classes]
        self._default_class = names.index(scheduler.config.default_class)
        self._started_at_s = clock.now_s() if epoch_s is None else epoch_s
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._linker = linker
        self.models: ModelCatalog | None = None
        self.members = Members(
            config, self.instances, self.requests, self.mover, self._note, self._left
        )
        self._news = asyncio.Event()

    def now_s(self) -> float:
        """Return the time on the fleet's clock: fleet seconds since its creation."""
        return self.clock.now_s() - self._started_at_s

    async def start(self, instances: Sequence[InstanceSpec | str]) -> None:
        """Start connecting to these servers, and rebalancing. Raises ConfigError, like a reload."""
        session = self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        links = Links(
            session,
            self.instances,
            self.config,
            self.secret,
            self,
            self.now_s,
            self.requests.count_at,
            self.requests.flowed_at_s,
            self._default_class,
        )
        linker = self._linker or links.open
        self.members.start(Keeper(self.config, self.secret, session, linker, self))
        self.models = ModelCatalog(session, self.instances, self.config.models_interval_s)
        await self.set_members(instances)
        self._tasks = [
            spawn(self.models.run(), "models"),
            spawn(self.mover.run(self.clock), "rebalance"),
        ]

    async def close(self) -> None:
        """Disconnect from all instances."""
        self.mover.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.members.close()
        if self.models is not None:
            await self.models.close()
        if self._session is not None:
            await self._session.close()

    async def set_members(
        self, instances: Sequence[InstanceSpec | str], source: str = CONFIGURATION
    ) -> None:
        """Make these servers the members that a source lists. Raises like `Members.set`."""
        await self.members.set(instances, source)

    async def reload(self, config: FleetConfig) -> None:
        """Take instances, keys and TLS settings from another configuration. Raises ConfigError."""
        await self.members.reload(config)

    async def wait_up(self, count: int, timeout_s: float) -> bool:
        """Wait (wall seconds) until this many instances take requests; return whether they do."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.instances.up()) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def dispatch(self, ask: PlacementRequest) -> Instance | Hold | Reject:
        """Choose an instance for a request; Hold means to ask again after `changed`."""
        found = candidates(ask, self.instances, self.health)
        now_s = self.now_s()
        decision = self.scheduler.dispatch(
            ask.request, self.instances.snapshot_of(found.rows), now_s
        )
        why = decision.explanation
        if found.left_out:
            why = replace(why, vetoed={**found.left_out, **why.vetoed})
        target = decision.instance_id if isinstance(decision, Dispatch) else None
        request_id = ask.request.request_id
        self.requests.decided(request_id, Decision(now_s, _KINDS[type(decision)], target, why))
        if target is None:
            assert not isinstance(decision, Dispatch)
            if isinstance(decision, Hold):
                self._held.hold(ask)
            return replace(decision, explanation=why) if found.left_out else decision
        self.tally.dispatched(why.policy, target)
        self._held.drop(request_id)
        instance = self.instances.get(target)
        assert instance is not None, "the scheduler chose from our own snapshot"
        self.health.sent(instance, request_id)
        return instance

    async def unique_id(self, wanted: str) -> str:
        """Return the id that a request gets whose client wants this one: it is free here."""
        return wanted

    def forget(self, request_id: RequestId) -> None:
        """Note that a request is over, or will be dispatched again."""
        self._held.drop(request_id)
        self.scheduler.forget(request_id)

    def suspect(self, instance: Instance, reason: str) -> None:
        """Take an instance out at once because it refused a connection; its keeper tries again."""
        link = instance.link
        instance.lose()
        if link is not None:
            link.give_up(reason)

    def serves(self, model: str) -> bool:
        """Return whether a model may be served: an instance has it, or none is there to ask."""
        return bearings.serves(self.instances, model)

    async def finds(self, model: str) -> bool:
        """Return whether a model may be served, after asking the instances again if none has it."""
        if not self.serves(model) and self.models is not None:
            await self.models.refresh()
        return self.serves(model)

    def only_model(self) -> str | None:
        """Return the fleet's only model, for requests that name none; None if there are several."""
        return bearings.only_model(self.instances)

    async def recall(self, request_id: str, owner: str, timeout_s: float) -> Remembered:
        """Return what plugged instances remember of a request whose client has come back."""
        plugged = [each for each in self.instances.alive() if each.plugged]
        return await recall(plugged, RequestId(request_id), owner, timeout_s)

    def claim_of(self, request_id: RequestId) -> tuple[MigrationId, Instance] | None:
        """Return where a request is migrating, or has just migrated; None if it is not."""
        migration_id = self.mover.book.of_request(request_id)
        return None if migration_id is None else self.claim_at(migration_id)

    def claim_at(self, migration_id: MigrationId) -> tuple[MigrationId, Instance] | None:
        """Return the destination of a migration; None if it is unknown or not alive."""
        instance = self.instances.get(self.mover.book.destination_of(migration_id))
        return (migration_id, instance) if instance is not None and instance.alive else None

    def claimed(self, request_id: RequestId, migration_id: MigrationId) -> None:
        """Note that a migrated request has been claimed: its migration no longer locates it."""
        self.mover.book.claimed(request_id, migration_id)

    def came_up(self, instance: Instance) -> None:
        """Note that an instance is up."""
        instance.fitness.renew()
        told = instance.identity.speed if instance.identity else None
        self.events.add(self.now_s(), "instance_up", f"{instance.id} is up at {instance.url}")
        log.info("instance_up instance=%s url=%s", instance.id, instance.url)
        if told is not None and told != self.clock.speed:
            text = f"{instance.id} runs at speed {told:g}, the fleet at {self.clock.speed:g}"
            log.warning(
                "speed_mismatch instance=%s speed=%g fleet_speed=%g",
                *(instance.id, told, self.clock.speed),
            )
            self.events.add(self.now_s(), "speed_mismatch", text)

    def went_down(self, instance: Instance, reason: str) -> None:
        """Note that an instance is down."""
        log.warning("instance_down instance=%s reason=%s", instance.id, reason)
        self.events.add(self.now_s(), "instance_down", f"{instance.id} is down: {reason}")
        self.mover.instance_gone(instance.id)
        self._held.forget(instance)
        for request in self.requests.at(instance.id):
            request.cut()
        self.changed()

    def not_up(self, instance: Instance, trouble: Trouble) -> None:
        """Note why an instance could not be reached, or was lost."""
        self._troubles.not_up(instance, trouble, self.now_s())

    def reported(self, instance: Instance, new_request_ids: Sequence[RequestId] | None) -> None:
        """Process a report."""
        self._troubles.up(instance)
        if new_request_ids is not None:
            self.scheduler.confirm(instance.id, list(new_request_ids))
        elif instance.load is not None:
            self.scheduler.confirm_until(instance.id, instance.load.reported_at_s)
        self._news.set()
        if self._held.ended_by(
            instance, confirmed=new_request_ids is None or bool(new_request_ids)
        ):
            self.changed()

    def engine_seen(self, instance: Instance, motion: Motion) -> None:
        """Suspect an instance whose engine makes no step, and carry its streams on elsewhere."""
        if self.health.engine_seen(instance, motion):
            self.changed()
        if motion.still_s and self._others_can_serve(instance):
            for request in self.requests.at(instance.id):
                request.cut()

    def heard(self, event: MigrationEvent) -> None:
        """Process a llumlet's report on a migration."""
        self.mover.heard(event)

    def works(self, instance: Instance) -> bool:
        """Return whether an instance was just seen to work: it stepped, or a stream flowed."""
        flowed_at_s = self.requests.flowed_at_s(instance.id)
        return bearings.works(
            instance, flowed_at_s, self.config.poll_interval_s, self.health.now_s()
        )

    def _could_start(self, request: DispatchRequest, instance: Instance) -> bool:
        return self.scheduler.could_start(request, self.instances.alone(instance))

    def _others_can_serve(self, instance: Instance) -> bool:
        return any(
            each is not instance and each.group.recomputes_for(instance.group)
            for each in self.instances.up()
        )

    def _note(self, kind: str, text: str) -> None:
        log.info(kind, extra={"fields": {"text": text}})
        self.events.add(self.now_s(), kind, text)

    def _left(self, instance: Instance) -> None:
        self._troubles.forget(instance)
        self._held.forget(instance)
        self.changed()
