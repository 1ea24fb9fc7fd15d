"""Which instances should hand a request to which: the rebalance policy.

As in the paper: sources are below the low threshold, destinations above the high one, both in
decode steps; the lowest is paired with the highest until one side runs out. Each pair may move one
request, small enough that the destination stays freer than the source becomes and far from being a
source itself, so a move never provokes the move back. Drains, queues and priorities need no rules
of their own: all of them show in freeness.
"""

from dataclasses import dataclass, field

import numpy as np

from policies import columns
from policies.types import (
    Explanation,
    FleetSnapshot,
    FloatColumn,
    InstanceId,
    IntColumn,
    MigrateOrder,
    MigrateReason,
)
from policies.usage import batch_size, freeness, owed_tokens, virtual_usage

POLICY = "freeness-rebalance"


@dataclass(frozen=True, slots=True)
class RebalanceConfig:
    """When to migrate, and how much at once. Times are fleet seconds.

    Raises ValueError when the thresholds are too close, or a bound is not positive.
    """

    interval_s: float = field(
        default=0.25, metadata={"help": "how often the fleet is rebalanced", "unit": "s"}
    )
    low_steps: float = field(
        default=64.0,
        metadata={
            "help": "instances less free than this give requests away",
            "unit": "decode steps",
        },
    )
    high_steps: float = field(
        default=100.0,
        metadata={"help": "instances freer than this take requests in", "unit": "decode steps"},
    )
    hysteresis_steps: float = field(
        default=16.0,
        metadata={
            "help": "a source stays one until it is this far above the low threshold",
            "unit": "decode steps",
        },
    )
    min_gain_steps: float = field(
        default=4.0,
        metadata={
            "help": "moves that make the pair's fuller instance less than this freer are not made",
            "unit": "decode steps",
        },
    )
    max_concurrent_out: int = field(
        default=1, metadata={"help": "moves under way from one instance", "unit": "migrations"}
    )
    max_concurrent_in: int = field(
        default=2, metadata={"help": "moves under way to one instance", "unit": "migrations"}
    )
    max_concurrent_drain: int = field(
        default=4,
        metadata={"help": "moves under way from one instance being drained", "unit": "migrations"},
    )
    max_concurrent: int = field(
        default=32, metadata={"help": "moves under way in the whole fleet", "unit": "migrations"}
    )
    order_timeout_s: float = field(
        default=60.0,
        metadata={
            "help": "an order nobody reported the end of is given up after this",
            "unit": "s",
        },
    )
    retry_after_s: float = field(
        default=1.0,
        metadata={
            "help": "a pair whose order came to nothing is left alone this long",
            "unit": "s",
        },
    )
    max_age_s: float = field(
        default=5.0,
        metadata={"help": "reports older than this are not trusted to migrate by", "unit": "s"},
    )

    def __post_init__(self) -> None:
        if self.hysteresis_steps < 0 or self.low_steps + self.hysteresis_steps > self.high_steps:
            raise ValueError(
                f"low_steps ({self.low_steps:g}) plus hysteresis_steps ({self.hysteresis_steps:g}) "
                f"must not exceed high_steps ({self.high_steps:g}), or moves provoke moves back"
            )
        for name in ("interval_s", "order_timeout_s", "retry_after_s", "max_age_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("max_concurrent_out", "max_concurrent_in", "max_concurrent_drain"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def release_steps(self) -> float:
        """Freeness at which a source is one no longer, and below which no move may push anyone."""
        return self.low_steps + self.hysteresis_steps


@dataclass(frozen=True, slots=True)
class RebalanceView:
    """All the rebalance policy may look at.

    The snapshot's in-flight columns are filled in. `sources` were sources in the last round;
    `slots_out` and `slots_in` say how many more moves each instance may begin or take in, `slots`
    how many the whole fleet may begin.
    """

    snapshot: FleetSnapshot
    headroom_tokens: IntColumn
    sources: frozenset[InstanceId]
    slots_out: IntColumn
    slots_in: IntColumn
    slots: int


def find_sources(view: RebalanceView, config: RebalanceConfig) -> frozenset[InstanceId]:
    """Say which instances are to give requests away: too full, or terminating."""
    free = freeness(view.snapshot, view.headroom_tokens, "head")
    was_source = np.array([i in view.sources for i in view.snapshot.ids], dtype=np.bool_)
    now_source = columns.too_full(free, was_source, config.low_steps, config.release_steps)
    return frozenset(view.snapshot.ids[row] for row in np.flatnonzero(now_source))


def propose(
    view: RebalanceView, sources: frozenset[InstanceId], config: RebalanceConfig
) -> list[MigrateOrder]:
    """Pair the fullest sources with the freest destinations, and say how much may move."""
    plan = _Plan(view, sources, config)
    fullest_first = sorted(
        (row for row, instance_id in enumerate(view.snapshot.ids) if instance_id in sources),
        key=lambda row: (plan.source_freeness[row], row),
    )
    orders: list[MigrateOrder] = []
    for row in fullest_first:
        slots = int(view.slots_out[row])
        moves = min(slots, plan.running[row]) if view.snapshot.terminating[row] else min(slots, 1)
        for _ in range(moves):
            order = plan.pair(row) if len(orders) < view.slots else None
            if order is None:
                break
            orders.append(order)
    return orders


class _Plan:
    """One round's working state: what instances have left once the moves planned so far land.

    Sources are judged by the head of their queue alone, so that a short queue is no alarm;
    destinations by all they are owed, so that nothing is moved in front of their own queue.
    """

    def __init__(
        self, view: RebalanceView, sources: frozenset[InstanceId], config: RebalanceConfig
    ) -> None:
        fleet = view.snapshot
        self.view, self.config = view, config
        self.running: IntColumn = batch_size(fleet, "head")
        self.source_freeness = freeness(fleet, view.headroom_tokens, "head")
        self.source_room = fleet.capacity_tokens - virtual_usage(
            fleet, view.headroom_tokens, "head"
        )
        # Infinity would make a terminating source's numbers useless; as a destination it is out.
        self.room = columns.room_for_moves(
            np.where(fleet.terminating, 0.0, self.source_room),
            np.where(fleet.terminating, 0, fleet.head_demand_tokens),
            owed_tokens(fleet, "whole"),
        )
        self.batch: IntColumn = batch_size(fleet, "whole")
        self.slots_in = view.slots_in.copy()
        self.is_source = np.array([i in sources for i in fleet.ids], dtype=np.bool_)
        self.mean_context = fleet.physical_tokens / np.maximum(1, self.running)

    def pair(self, source: int) -> MigrateOrder | None:
        """Order one move away from this source, if there is one worth making."""
        if self.running[source] == 0:
            return None
        if self.view.snapshot.terminating[source]:
            return self._drain(source)
        return self._relieve(source)

    def _relieve(self, source: int) -> MigrateOrder | None:
        taking = columns.takes_moves(self.room, self.batch, self.is_source, self.config.high_steps)
        destination = self._freest(self._freeness(), taking)
        if destination is None:
            return None
        bound = self._bound(source, destination)
        mean = self.mean_context[source]
        # A source knows only its mean; of a single request that is the size.
        if bound < (mean if self.running[source] == 1 else 1):
            return None
        gain = self._gain(source, destination, min(bound, mean))
        if gain < self.config.min_gain_steps:
            return None
        note = f"should make it {gain:.0f} steps freer"
        return self._order(source, destination, bound, bound, MigrateReason.REBALANCE, note)

    def _drain(self, source: int) -> MigrateOrder | None:
        open_to_all = ~self.view.snapshot.terminating & (self.room >= 1)
        destination = self._freest(self._freeness(), open_to_all)
        if destination is None:
            return None
        bound = int(self.room[destination])
        # The llumlet moves short requests first: planning for the mean keeps the drain wide, and a
        # destination that is short of memory after all refuses the reservation.
        planned = min(bound, int(self.mean_context[source]))
        reason = MigrateReason.DRAIN
        return self._order(source, destination, bound, planned, reason, "it is terminating")

    def _freeness(self) -> FloatColumn:
        return columns.steps_to_full(self.room, self.batch)

    def _freest(self, free: FloatColumn, allowed: np.ndarray) -> int | None:
        rows = np.flatnonzero(allowed & (self.slots_in > 0))
        return int(rows[np.argmax(free[rows])]) if len(rows) else None

    def _bound(self, source: int, destination: int) -> int:
        """Bound the context so that afterwards the destination is the freer one, and no source.

        With c tokens moved the source has (S + c) / m steps and the destination (D - c) / n; the
        first condition is (S + c) / m <= (D - c) / n, the second (D - c) / n >= release.
        """
        m = max(1, self.running[source] - 1)
        n = self.batch[destination] + 1
        room = self.room[destination] - self._headroom_moved(source, destination)
        even = (room * m - self.source_room[source] * n) / (m + n)
        return int(min(even, room - self.config.release_steps * n))

    def _gain(self, source: int, destination: int, context: float) -> float:
        """Predict by how many steps the fuller one of the pair becomes freer."""
        after_source = (self.source_room[source] + context) / max(1, self.running[source] - 1)
        room = self.room[destination] - self._headroom_moved(source, destination) - context
        after = min(after_source, room / (self.batch[destination] + 1))
        return float(after - self.source_freeness[source])

    def _headroom_moved(self, source: int, destination: int) -> int:
        """Tell the headroom the request moved will bring along: that of the least urgent class."""
        running = self.view.snapshot.class_running
        moved = int(np.flatnonzero(running[source])[-1])
        return 0 if running[destination, moved] else int(self.view.headroom_tokens[moved])

    def _order(
        self,
        source: int,
        destination: int,
        bound: int,
        planned: int,
        reason: MigrateReason,
        note: str,
    ) -> MigrateOrder:
        ids = self.view.snapshot.ids
        free = self._freeness()
        self.room[destination] -= planned
        self.batch[destination] += 1
        self.slots_in[destination] -= 1
        text = (
            f"{ids[source]} has {self.source_freeness[source]:.0f} steps left, "
            f"{ids[destination]} {free[destination]:.0f}: {note}"
        )
        scores = dict(zip(ids, self.source_freeness.tolist(), strict=True))
        why = Explanation(POLICY, scores, note=text)
        return MigrateOrder(ids[source], ids[destination], bound, reason, why)
