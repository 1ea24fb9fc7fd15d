"""Carry out migrations: the scheduler's orders, manual orders, and drains."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from llumnix.fleet.clock import FleetClock
from llumnix.fleet.decisions.decision import Decision, DecisionKind
from llumnix.fleet.events import EventRing
from llumnix.fleet.migrations.book import Migration, MigrationBook
from llumnix.fleet.migrations.recompute_moves import RecomputeMoves
from llumnix.fleet.requests import RequestTable
from llumnix.fleet.scheduler import FleetScheduler
from llumnix.instances.instance import Instance, InstanceState, MigrationOrder
from llumnix.instances.table import InstanceTable
from llumnix.metrics.tally import Tally
from migration.llumlet.fleet_messages import EventKind, MigrationEvent
from policies.types import (
    Explanation,
    InstanceId,
    MigrateOrder,
    MigrateReason,
    MigrationId,
    RequestId,
)

log = logging.getLogger(__name__)

_NO_LIMIT_TOKENS = 1 << 40


@dataclass(frozen=True, slots=True)
class Impossible:
    """Why a manual order cannot be carried out; `unknown`: something it names does not exist."""

    reason: str
    unknown: bool = False


class Mover:
    """Sends orders to llumlets and records what becomes of them."""

    def __init__(
        self,
        scheduler: FleetScheduler,
        instances: InstanceTable,
        requests: RequestTable,
        events: EventRing,
        tally: Tally,
        now_s: Callable[[], float],
        order_timeout_s: float,
    ) -> None:
        self.book = MigrationBook()
        self._scheduler = scheduler
        self._instances = instances
        self._requests = requests
        self._events = events
        self._tally = tally
        self._now_s = now_s
        self._order_timeout_s = order_timeout_s
        self._hand_overs = RecomputeMoves(
            self.book, instances, requests, now_s, self._started, self._handed_over
        )

    async def run(self, clock: FleetClock) -> None:
        """Rebalance at every interval, until cancelled."""
        while True:
            await clock.sleep_s(self._scheduler.config.rebalance.interval_s)
            await self.round()

    async def round(self) -> None:
        """Rebalance once: send what the scheduler orders now."""
        self._drop_overdue()
        self._hand_overs.empty(self._freest_but)
        rows = [each for each in self._instances.alive() if each.plugged]
        snapshot = self._instances.snapshot(rows)
        for order in self._scheduler.rebalance(snapshot, self._now_s()):
            await self._order(order, None)

    async def move_by_hand(
        self, request_id: str | None, source: str | None, destination: str | None
    ) -> Migration | Impossible:
        """Migrate a request (or one the source chooses) to an instance (or the freest)."""
        active = self._requests.active.get(RequestId(request_id)) if request_id else None
        if request_id and active is None:
            return Impossible(f"there is no request {request_id!r}", unknown=True)
        origin = self._instances.get(source or (active.instance_id if active else None))
        if origin is None:
            if active is not None and not source:
                return Impossible(f"{request_id} is not on an instance yet")
            return Impossible(f"there is no instance {source!r}", unknown=True)
        target = self._instances.get(destination) if destination else self._freest_but(origin)
        if target is None:
            missing = f"there is no instance {destination!r}"
            return Impossible(
                missing if destination else "no other instance is up", unknown=bool(destination)
            )
        if origin is target:
            return Impossible(f"it is already at {origin.id}")
        wanted = RequestId(request_id) if request_id else None
        for each in (origin, target):
            if not each.alive or (origin.plugged and not each.plugged):
                return Impossible(f"{each.id} cannot take part: it is {_condition(each)}")
        if not _can_take_over(origin, target):
            return Impossible(f"{target.id} and {origin.id} are not of one group")
        if not origin.plugged:
            handed = self._hand_overs.order(origin, target, wanted, MigrateReason.MANUAL)
            return handed or Impossible(f"{target.id} cannot resume such a stream")
        order = MigrateOrder(
            origin.id,
            target.id,
            _NO_LIMIT_TOKENS,
            MigrateReason.MANUAL,
            Explanation("manual"),
        )
        self._scheduler.order_started(order, self._now_s())
        moving = await self._order(order, wanted)
        return moving or Impossible(f"the order could not be sent to {origin.id}")

    async def drain(self, instance: Instance, *, on: bool) -> None:
        """Drain an instance: no new requests, and running ones move away. Raises OSError."""
        instance.set_draining(on)
        text = f"{instance.id} {'is being drained' if on else 'takes requests again'}"
        self._note("drain", text, instance=instance.id, on=on)
        if instance.link is not None:
            await instance.link.drain(on)
        self._hand_overs.empty(self._freest_but)

    def heard(self, event: MigrationEvent) -> None:
        """Process a llumlet's report on a migration."""
        now_s = self._now_s()
        if event.kind is EventKind.STARTED:
            migration = self.book.started(event, now_s)
            self._started(migration)
            active = self._requests.active.get(RequestId(event.request_id))
            if active is not None:
                active.follower.started(migration.migration_id, migration.source)
            return
        ended = self.book.ended(MigrationId(event.migration_id), moved=event.redirected)
        if ended is None:
            log.debug("migration_unknown migration_id=%s kind=%s", event.migration_id, event.kind)
            return
        ended.request_id = ended.request_id or RequestId(event.request_id) or None
        if not event.redirected:
            self._stays(ended)
        self._end(ended, event.kind, event.detail, event)

    def instance_gone(self, instance_id: InstanceId) -> None:
        """Give up migrations from and to an instance that is gone; their streams find out."""
        for migration in self.book.of_instance(instance_id):
            # Its request may be at the destination all the same: `moved` keeps track of that.
            self.book.ended(migration.migration_id, moved=migration.destination != instance_id)
            if migration.destination == instance_id:
                self._stays(migration)
            self._end(migration, EventKind.ABORTED, f"{instance_id} is gone")
        self._scheduler.instance_gone(instance_id)

    def close(self) -> None:
        """Send no more orders."""
        self._hand_overs.close()

    async def _order(self, order: MigrateOrder, request_id: RequestId | None) -> Migration | None:
        source = self._instances.get(order.source)
        destination = self._instances.get(order.destination)
        if source is None or source.link is None or destination is None:
            self._scheduler.order_ended(order.source, order.destination, self._now_s(), moved=False)
            return None
        move = MigrationOrder(
            MigrationId(secrets.token_hex(8)),
            source.id,
            destination,
            request_id,
            order.max_context_tokens,
            order.reason,
        )
        migration = self.book.begin(move, order.explanation, self._now_s())
        try:
            async with asyncio.timeout(self._order_timeout_s):
                await source.link.migrate_out(move)
        except (OSError, TimeoutError) as error:
            self.book.ended(move.migration_id, moved=False)
            self._end(migration, EventKind.ABORTED, f"the order could not be sent: {error}")
            return None
        return migration

    def _started(self, migration: Migration) -> None:
        self._note(
            "migration_started",
            _journey(migration),
            **migration.status().to_json(),
        )
        active = self._requests.active.get(migration.request_id or RequestId(""))
        if active is not None:
            decision = Decision(
                self._now_s(), DecisionKind.MIGRATE, migration.destination, migration.explanation
            )
            self._requests.decided(active.request_id, decision)

    def _stays(self, migration: Migration) -> None:
        """Tell the request's follower that it stays where it is."""
        active = self._requests.active.get(migration.request_id or RequestId(""))
        if active is not None:
            active.follower.ended(migration.migration_id)

    def _end(
        self,
        migration: Migration,
        result: EventKind,
        why: str,
        event: MigrationEvent | None = None,
    ) -> None:
        pair = migration.source, migration.destination
        self._scheduler.order_ended(*pair, self._now_s(), moved=result is EventKind.COMMITTED)
        copied_bytes = event.copied_bytes if event else 0
        self._tally.migration_ended(migration.reason, result, copied_bytes)
        figures = (
            {
                "stages": event.stages,
                "copied_tokens": event.copied_tokens,
                "copied_bytes": copied_bytes,
                "source_downtime_s": event.source_downtime_s,
            }
            if event
            else {}
        )
        text = f"{_journey(migration)} {result}"
        detail = f" ({why})" if result is not EventKind.COMMITTED and why else ""
        self._note(f"migration_{result}", text + detail, **migration.status().to_json(), **figures)

    def _handed_over(self, migration: Migration, moved: bool) -> None:
        result = EventKind.COMMITTED if moved else EventKind.ABORTED
        self._end(migration, result, "it ended, or could not be resumed")

    def _drop_overdue(self) -> None:
        for migration in self.book.overdue(self._now_s() - self._order_timeout_s):
            self.book.ended(migration.migration_id, moved=True)
            self._end(migration, EventKind.ABORTED, "no outcome was reported")

    def _freest_but(self, origin: Instance) -> Instance | None:
        others = [
            each
            for each in self._instances.alive()
            if each is not origin
            and each.state is InstanceState.UP
            # A llumlet migrates only to its like; other streams resume wherever token ids work.
            and (each.plugged or (each.vllm and not origin.plugged))
            and _can_take_over(origin, each)
        ]
        if not others:
            return None
        freeness = self._scheduler.freeness(self._instances.snapshot(others))
        return others[int(freeness.argmax())]

    def _note(self, kind: str, text: str, **fields: object) -> None:
        log.info(kind, extra={"fields": {**fields, "text": text}})
        self._events.add(self._now_s(), kind, text, **fields)


def _can_take_over(origin: Instance, target: Instance) -> bool:
    """Return whether the other can resume this one's stream: KV never crosses groups."""
    if origin.plugged:
        return origin.group == target.group
    return target.group.recomputes_for(origin.group)


def _journey(migration: Migration) -> str:
    who = f"{migration.request_id}: " if migration.request_id else ""
    return f"{who}{migration.source} → {migration.destination}"


def _condition(instance: Instance) -> str:
    return str(instance.state) if instance.plugged else "a server without the plugin"
