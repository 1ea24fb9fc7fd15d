"""The records of migrations: what was ordered, and what the llumlets reported."""

from collections.abc import Mapping

from migration.llumlet.fleet_messages import EventKind, MigrateOut, MigrationEvent
from migration.protocol.peer import Peer
from policies.scheduler import GlobalScheduler
from policies.types import InstanceId, MigrateOrder, MigrationId, RequestId
from simulator.events import EventQueue
from simulator.fleet.life import Fate, Life, MoveRecord

_PORT = 1
"""Peers need an address; virtual time never uses it."""


class Moves:
    """All migrations of a run; `log` has every event with its time, in ns."""

    def __init__(
        self, scheduler: GlobalScheduler, events: EventQueue, lives: Mapping[RequestId, Life]
    ) -> None:
        self.log: list[tuple[int, MigrationEvent]] = []
        self._scheduler = scheduler
        self._events = events
        self._lives = lives
        self._orders: dict[MigrationId, MigrateOrder] = {}
        self._given = 0

    def order(self, order: MigrateOrder) -> MigrateOut:
        """Enter an order of the scheduler; return the order for the source's llumlet."""
        self._given += 1
        migration_id = MigrationId(f"migration-{self._given}")
        self._orders[migration_id] = order
        destination = Peer(order.destination, "virtual", _PORT)
        return MigrateOut(migration_id, destination, None, order.max_context_tokens, order.reason)

    def heard(self, event: MigrationEvent) -> Life | None:
        """Take in a llumlet's event; return the request that no instance has any more, if any."""
        now_ns = self._events.now_ns
        self.log.append((now_ns, event))
        life = self._lives.get(RequestId(event.request_id))
        if event.kind is EventKind.STARTED:
            assert life is not None
            life.moves.append(
                MoveRecord(event.migration_id, event.source, event.destination, now_ns)
            )
            return None
        order = self._orders.pop(MigrationId(event.migration_id), None)
        if order is None:
            return None
        moved = event.kind is EventKind.COMMITTED
        self._scheduler.order_ended(
            order.source, order.destination, self._events.now_s, moved=moved
        )
        if life is None:
            return None
        _settle(life, event)
        let_go = event.redirected and life.fate is Fate.RUNNING
        return life if let_go and life.instance_id == event.source else None

    def instance_gone(self, instance_id: InstanceId) -> None:
        """Forget the orders that concern an instance which is gone."""
        self._orders = {
            key: order
            for key, order in self._orders.items()
            if instance_id not in (order.source, order.destination)
        }
        self._scheduler.instance_gone(instance_id)


def _settle(life: Life, event: MigrationEvent) -> None:
    """Keep the completed moves, with their durations."""
    move = next((one for one in life.moves if one.migration_id == event.migration_id), None)
    if move is None:
        return
    if move.committed_ns:
        move.stages, move.copied_bytes = event.stages, event.copied_bytes
    else:
        life.moves.remove(move)
