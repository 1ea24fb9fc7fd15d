"""Which instances should hand a request to which: the rebalance policy.

As in the paper, sources are below the low threshold and destinations above the high one, both in
decode steps; the lowest is paired with the highest until one side runs out. Each pair may move one
request, small enough that the destination stays freer than the source becomes and far from being a
source itself, so a move never provokes its reverse. Queues and priorities need no rules of their
own: freeness reflects both.
"""

import numpy as np

from policies import columns
from policies.moves.plan import Plan
from policies.moves.view import MovesView
from policies.types import InstanceId, MigrateOrder, MigrateReason
from policies.usage import freeness


def find_sources(view: MovesView) -> frozenset[InstanceId]:
    """Return the source instances: too full, or terminating.

    `view.sources` are those of the last round: a source stays one until it has recovered a little.
    """
    free, config = freeness(view.snapshot, view.headroom_tokens, "head"), view.config
    was_source = np.array([i in view.sources for i in view.snapshot.ids], dtype=np.bool_)
    now_source = columns.too_full(free, was_source, config.low_steps, config.release_steps)
    return frozenset(view.snapshot.ids[row] for row in np.flatnonzero(now_source))


def propose_relief(view: MovesView) -> list[MigrateOrder]:
    """Pair the fullest sources with the freest destinations, and bound how much may move."""
    orders: list[MigrateOrder] = []
    if not view.sources:
        return orders
    plan = Plan(view)
    full = np.flatnonzero(plan.is_source & ~view.snapshot.terminating)
    groups = view.snapshot.group.tolist()
    # By group, until the next order: what no order has touched has not changed.
    freest: dict[int, int | None] = {}
    for row in sorted(full.tolist(), key=lambda row: (plan.source_freeness[row], row)):
        if len(orders) >= view.slots:
            break
        if view.slots_out[row] <= 0 or plan.running[row] <= 0:
            continue
        if groups[row] not in freest:
            freest[groups[row]] = _freest(plan, row)
        destination = freest[groups[row]]
        order = None if destination is None else _relieve(plan, row, destination)
        if order is not None:
            orders.append(order)
            freest.clear()
    return orders


def _freest(plan: Plan, source: int) -> int | None:
    """Find the freest instance that takes moves from this source's group."""
    high_steps = plan.view.config.high_steps
    taking = columns.takes_moves(plan.room, plan.batch, plan.is_source, high_steps)
    return plan.freest(source, taking)


def _relieve(plan: Plan, source: int, destination: int) -> MigrateOrder | None:
    """Order one move away from this source, if it is worth making."""
    bound = _bound(plan, source, destination)
    mean = plan.mean_context[source]
    # A source knows only its mean, taken as the size of a single request.
    if bound < (mean if plan.running[source] == 1 else 1):
        return None
    gain = _gain(plan, source, destination, min(bound, mean))
    if gain < plan.view.config.min_gain_steps:
        return None
    note = f"should make it {gain:.0f} steps freer"
    return plan.order(source, destination, bound, bound, MigrateReason.REBALANCE, note)


def _bound(plan: Plan, source: int, destination: int) -> int:
    """Bound the context so that afterwards the destination is the freer one, and no source.

    With c tokens moved the source has (S + c) / m steps and the destination (D - c) / n; the first
    condition is (S + c) / m <= (D - c) / n, the second (D - c) / n >= release.
    """
    m = max(1, plan.running[source] - 1)
    n = plan.batch[destination] + 1
    room = plan.room[destination] - _headroom_moved(plan, source, destination)
    even = (room * m - plan.source_room[source] * n) / (m + n)
    return int(min(even, room - plan.view.config.release_steps * n))


def _gain(plan: Plan, source: int, destination: int, context: float) -> float:
    """Predict by how many steps the fuller one of the pair becomes freer."""
    after_source = (plan.source_room[source] + context) / max(1, plan.running[source] - 1)
    room = plan.room[destination] - _headroom_moved(plan, source, destination) - context
    after = min(after_source, room / (plan.batch[destination] + 1))
    return float(after - plan.source_freeness[source])


def _headroom_moved(plan: Plan, source: int, destination: int) -> int:
    """Return the headroom the moved request brings along: that of the least urgent class."""
    running = plan.view.snapshot.class_running
    moved = int(np.flatnonzero(running[source])[-1])
    return 0 if running[destination, moved] else int(plan.view.headroom_tokens[moved])
