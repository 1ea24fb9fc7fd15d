"""The order book: migrations ordered and not yet ended, and what may be ordered beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies.moves.config import RebalanceConfig
from policies.types import FleetSnapshot, InstanceId, IntColumn, MigrateOrder


@dataclass(frozen=True, slots=True)
class ActiveOrder:
    """An order on its way or being carried out."""

    order: MigrateOrder
    started_at_s: float


class OrderBook:
    """Migrations under way, across rebalancing rounds. Times are the caller's, in seconds."""

    def __init__(self, config: RebalanceConfig) -> None:
        self.config = config
        self._active: list[ActiveOrder] = []
        self._moved_at_s: dict[InstanceId, float] = {}
        self._retry_at_s: dict[tuple[InstanceId, InstanceId], float] = {}

    def active(self) -> Sequence[ActiveOrder]:
        """List the orders under way, oldest first."""
        return tuple(self._active)

    def begin(self, order: MigrateOrder, now_s: float) -> None:
        """Enter a new order."""
        self._active.append(ActiveOrder(order, now_s))

    def end(self, source: InstanceId, destination: InstanceId, now_s: float, moved: bool) -> None:
        """Drop the pair's oldest order; the end of an unknown one (say, expired) counts as well.

        Both instances must report again before they are paired again; a pair whose order failed is
        left alone for a while, since little will have changed.
        """
        for active in self._active:
            if (active.order.source, active.order.destination) == (source, destination):
                self._active.remove(active)
                break
        if moved:
            self._moved_at_s[source] = self._moved_at_s[destination] = now_s
        else:
            self._retry_at_s[source, destination] = now_s + self.config.retry_after_s

    def expire(self, now_s: float) -> int:
        """Expire orders whose end was never reported, and return their number."""
        limit_s = self.config.order_timeout_s
        lost = [active for active in self._active if now_s - active.started_at_s > limit_s]
        for active in lost:
            self.end(active.order.source, active.order.destination, now_s, moved=False)
        self._retry_at_s = {pair: at for pair, at in self._retry_at_s.items() if at > now_s}
        return len(lost)

    def forget_instance(self, instance_id: InstanceId) -> None:
        """Drop everything that concerns an instance that is gone."""
        self._active = [
            active
            for active in self._active
            if instance_id not in (active.order.source, active.order.destination)
        ]
        self._moved_at_s.pop(instance_id, None)
        self._retry_at_s = {
            pair: at for pair, at in self._retry_at_s.items() if instance_id not in pair
        }

    def slots(self) -> int:
        """Count the moves the whole fleet may still begin."""
        return self.config.max_concurrent - len(self._active)

    def slots_out(self, snapshot: FleetSnapshot) -> IntColumn:
        """Count, per instance, the moves that may still begin there; more while it is drained."""
        busy = self._count([active.order.source for active in self._active], snapshot)
        caps = np.where(
            snapshot.terminating, self.config.max_concurrent_drain, self.config.max_concurrent_out
        )
        slots: IntColumn = np.maximum(0, caps - busy)
        return slots

    def slots_in(self, snapshot: FleetSnapshot) -> IntColumn:
        """Count, per instance, the moves it may still take in."""
        busy = self._count([active.order.destination for active in self._active], snapshot)
        slots: IntColumn = np.maximum(0, self.config.max_concurrent_in - busy)
        return slots

    def objection(
        self,
        order: MigrateOrder,
        snapshot: FleetSnapshot,
        row: Mapping[InstanceId, int],
        now_s: float,
    ) -> str | None:
        """Return why this order must not be given now; None if it may be."""
        if self.slots() <= 0:
            return f"{self.config.max_concurrent} migrations are under way in the fleet"
        if self.slots_out(snapshot)[row[order.source]] <= 0:
            return f"{order.source} is already moving away as many requests as allowed"
        if self.slots_in(snapshot)[row[order.destination]] <= 0:
            return f"{order.destination} is already taking in as many requests as allowed"
        if self._retry_at_s.get((order.source, order.destination), now_s) > now_s:
            return "the last order of this pair failed a moment ago"
        for instance_id in (order.source, order.destination):
            reported_at_s = now_s - float(snapshot.age_s[row[instance_id]])
            if reported_at_s < self._moved_at_s.get(instance_id, reported_at_s):
                return f"{instance_id} has not reported since its last move"
        return None

    @staticmethod
    def _count(busy: Sequence[InstanceId], snapshot: FleetSnapshot) -> IntColumn:
        row = snapshot.rows
        counts = np.zeros(len(snapshot.ids), dtype=np.int64)
        np.add.at(counts, [row[each] for each in busy if each in row], 1)
        return counts
