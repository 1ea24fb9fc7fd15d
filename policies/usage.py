"""Virtual usage and freeness: how full an instance counts as, and how long it can keep decoding.

Virtual usage is the one number every policy reads (paper, Algorithm 1). Whatever should make an
instance count as fuller than it is (a queued request, a class that needs room to stay fast, a
drain) enters here, and balancing, de-fragmentation, priorities and draining follow from it.

Headroom makes an instance look full to *every* class, the protected one included: freeness is one
number per instance, as in the paper. That is right for placing (a second urgent request had better
go elsewhere), but no reason to refuse: whether a request *can start* is decided by
`startable_tokens`, which ignores headroom. Otherwise one urgent request on every instance would
block all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from policies import columns
from policies.types import FleetSnapshot, FloatColumn, IntColumn

Queue = Literal["head", "whole"]
"""Which waiting requests count: the head of the line (rebalance), or all of them and what is in
flight (dispatch; counting the head alone herds once queues build up)."""


def headroom_usage(class_running: IntColumn, headroom_tokens: IntColumn) -> IntColumn:
    """Sum, per instance, the headroom of the classes that run at least one request there.

    The paper gives each running request headroom(class)/number; summed over them that is the
    headroom once per class.
    """
    usage: IntColumn = (class_running > 0) @ headroom_tokens
    return usage


def owed_tokens(snapshot: FleetSnapshot, queue: Queue) -> IntColumn:
    """Count the tokens waiting requests will need: the head's, or all and those in flight."""
    if queue == "head":
        return snapshot.head_demand_tokens
    return snapshot.queued_demand_tokens + snapshot.in_flight_tokens


def virtual_usage(snapshot: FleetSnapshot, headroom_tokens: IntColumn, queue: Queue) -> FloatColumn:
    """Compute each instance's virtual usage in tokens; infinite where it is terminating."""
    usage = columns.used(
        snapshot.physical_tokens,
        snapshot.reserved_tokens,
        headroom_usage(snapshot.class_running, headroom_tokens),
        owed_tokens(snapshot, queue),
    )
    return np.where(snapshot.terminating, np.inf, usage)


def batch_size(snapshot: FleetSnapshot, queue: Queue) -> IntColumn:
    """Count the requests that share an instance's room: those whose tokens `queue` counts."""
    batch = over_classes(snapshot.class_running)
    if queue == "whole":
        batch = batch + over_classes(snapshot.class_waiting) + snapshot.in_flight_requests
    return batch


def over_classes(counts: IntColumn) -> IntColumn:
    """Sum a table of counts by class, per instance: a few columns are added faster than reduced."""
    total = counts[:, 0]
    for index in range(1, counts.shape[1]):
        total = total + counts[:, index]
    return total


def freeness(snapshot: FleetSnapshot, headroom_tokens: IntColumn, queue: Queue) -> FloatColumn:
    """Compute how many decode steps each instance can still take; negative when over-committed."""
    room = snapshot.capacity_tokens - virtual_usage(snapshot, headroom_tokens, queue)
    running = batch_size(snapshot, "head")
    if queue == "head":
        return columns.steps_to_full(room, running)
    # Requests on their way share the room there is, but not a deficit: it would shrink with every
    # further request sent to an overloaded instance, and attract more.
    return columns.steps_to_full_shared(room, running, batch_size(snapshot, "whole"))


def startable_tokens(snapshot: FleetSnapshot) -> IntColumn:
    """Count the tokens a new request could use at once, after all that wait or are in flight.

    Memory as it is, without headroom; negative where more waits than fits.
    """
    return columns.startable(
        snapshot.capacity_tokens,
        snapshot.physical_tokens,
        snapshot.reserved_tokens,
        owed_tokens(snapshot, "whole"),
    )


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One request as the paper's Algorithm 1 sees it.

    `tokens` is the demand of a queued request and the physical usage of a running one; a `fake`
    request of infinite usage marks a terminating instance.
    """

    state: Literal["queued", "running", "fake"]
    class_index: int = 0
    tokens: int = 0
    head_of_line: bool = False


def row_usage(row: UsageRow, running_of_class: int, headroom_tokens: int) -> float:
    """Compute the virtual usage of one request, line by line as in the paper (CalcVirtualUsage)."""
    if row.state == "fake":
        return float("inf")
    if row.state == "queued":
        return float(row.tokens) if row.head_of_line else 0.0
    return row.tokens + headroom_tokens / running_of_class


def row_freeness(
    rows: Sequence[UsageRow], capacity_tokens: int, headroom_tokens: Sequence[int]
) -> float:
    """Compute an instance's freeness from its requests (CalcFreeness); `freeness` must equal it."""
    running = [row.class_index for row in rows if row.state == "running"]
    used = sum(
        row_usage(row, running.count(row.class_index), headroom_tokens[row.class_index])
        for row in rows
    )
    return (capacity_tokens - used) / max(1, len(running))
