"""The arithmetic of the built-in policies, as functions of columns: one number per instance.

The same lines decide in a live fleet, on a snapshot's columns, and in the simulator's inner loop,
where numba compiles them. So they take only arrays and numbers, and use only what both numpy and
numba provide. Tokens are KV tokens; `running` counts the requests in a batch, `batch` those waiting
and on their way as well. What the numbers mean is documented in `policies.usage` and
`policies.moves.rebalance`.
"""

import numpy as np

from policies.types import BoolColumn, FloatColumn, IntColumn

HOLD = -1
"""Returned by `choose` when a request should wait for a better moment."""


def used(
    physical: IntColumn, reserved: IntColumn, headroom: IntColumn, owed: IntColumn
) -> IntColumn:
    """Add up an instance's virtual usage, without the share that marks it as terminating."""
    return physical + reserved + headroom + owed


def steps_to_full(room: FloatColumn, running: IntColumn) -> FloatColumn:
    """Return how many steps a batch can take until its room is used up."""
    result: FloatColumn = room / np.maximum(1, running)
    return result


def steps_to_full_shared(room: FloatColumn, running: IntColumn, batch: IntColumn) -> FloatColumn:
    """Return the same where requests on their way share the room, but no deficit."""
    result: FloatColumn = room / np.maximum(1, np.where(room > 0, batch, running))
    return result


def startable(
    capacity: IntColumn, physical: IntColumn, reserved: IntColumn, owed: IntColumn
) -> IntColumn:
    """Count the tokens a new request could use at once."""
    return capacity - physical - reserved - owed


def has_room(
    startable_tokens: IntColumn, batch: IntColumn, growth_steps: float, prompt_tokens: int
) -> BoolColumn:
    """Return whether a prompt fits beside the batch's expected growth."""
    result: BoolColumn = startable_tokens - growth_steps * batch >= prompt_tokens
    return result


def free_share(startable_tokens: IntColumn, capacity: IntColumn) -> FloatColumn:
    """Return the share of the memory a new request could use."""
    result: FloatColumn = startable_tokens / np.maximum(1, capacity)
    return result


def choose(
    scores: FloatColumn,
    allowed: BoolColumn,
    ready: BoolColumn,
    idle: BoolColumn,
    fits: BoolColumn,
    pending: IntColumn,
    turn: int,
) -> int:
    """Choose a row for a request among the allowed (at least one): ready, or idle.

    HOLD if there is none. An idle instance cannot become readier, and a request that fits nowhere
    must not wait.
    """
    eligible = allowed & ready
    if not eligible.any():
        eligible = allowed & idle
        if not eligible.any():
            if (allowed & fits).any():
                return HOLD
            eligible = allowed
    return best(scores, eligible, pending, turn)


def best(scores: FloatColumn, eligible: BoolColumn, pending: IntColumn, turn: int) -> int:
    """Choose the eligible row with the best score; ties go to the fewest pending, then in rotation.

    Without rotation, a fleet of idle, equal instances would send everything to the first.
    """
    rows = np.flatnonzero(eligible)
    its_scores = scores[rows]
    rows = rows[its_scores == its_scores.max()]
    if len(rows) > 1:
        its_pending = pending[rows]
        rows = rows[its_pending == its_pending.min()]
    return int(rows[turn % len(rows)])


def too_full(
    free_steps: FloatColumn, was_source: BoolColumn, low_steps: float, release_steps: float
) -> BoolColumn:
    """Return which instances are sources; a former source must first recover a little."""
    result: BoolColumn = free_steps < np.where(was_source, release_steps, low_steps)
    return result


def room_for_moves(
    source_room: FloatColumn, head_demand: IntColumn, owed_whole: IntColumn
) -> FloatColumn:
    """Count the tokens left for requests moving in, after everything that waits for them."""
    return source_room + head_demand - owed_whole


def takes_moves(
    room: FloatColumn, batch: IntColumn, is_source: BoolColumn, high_steps: float
) -> BoolColumn:
    """Return which instances are free enough to be destinations."""
    result: BoolColumn = (steps_to_full(room, batch) > high_steps) & ~is_source
    return result
