"""Decisions by the arithmetic of `policies.columns` on the instances' last reports."""

import numpy as np

from policies import columns
from simulator.events import NS_PER_S
from simulator.kernel.state import (
    BY_FREENESS,
    BY_LOAD,
    BY_REQUESTS,
    CAPACITY,
    GROWTH_STEPS,
    HEAD_DEMAND,
    HEADROOM,
    HELD_BACK,
    HELD_BACK_AT,
    HIGH_STEPS,
    LATE_BINDING,
    LOW_STEPS,
    OUT,
    PHYSICAL,
    POLICY,
    PROMPT,
    QUEUED_DEMAND,
    RELEASE_STEPS,
    RESERVED_TOKENS,
    RUNS,
    SENT_REQUESTS,
    SENT_TOKENS,
    SHOWN_S,
    SOURCE,
    TERMINATING,
    TURN,
    WAITS,
    State,
)

NO_ROOM = np.iinfo(np.int64).min


def takes_requests(s: State) -> bool:
    """Whether any instance accepts requests."""
    row, rows = 0, s.col.shape[1]
    while row < rows and s.col[TERMINATING][row]:
        row += 1
    found: bool = row < rows
    return found


def decide(s: State, r: int) -> int:
    """Choose a row, or HOLD: `GlobalScheduler.dispatch`; some instance must accept requests."""
    col = s.col
    tokens = s.req[PROMPT][r] + s.req[OUT][r]
    batch = col[RUNS] + col[WAITS] + col[SENT_REQUESTS]
    owed = col[QUEUED_DEMAND] + col[SENT_TOKENS]
    startable = columns.startable(col[CAPACITY], col[PHYSICAL], col[RESERVED_TOKENS], owed)
    allowed = col[TERMINATING] == 0
    ready = allowed
    policy = s.fleet[POLICY]
    if policy == BY_FREENESS:
        used = columns.used(col[PHYSICAL], col[RESERVED_TOKENS], col[HEADROOM], owed)
        room = (col[CAPACITY] - used).astype(np.float64)
        scores = columns.steps_to_full_shared(room, col[RUNS], batch)
        if s.fleet[LATE_BINDING]:
            ready = columns.has_room(startable, batch, s.real[GROWTH_STEPS], tokens)
    elif policy == BY_LOAD:
        scores = columns.free_share(startable, col[CAPACITY])
    elif policy == BY_REQUESTS:
        scores = -batch.astype(np.float64)
    else:
        rows = np.flatnonzero(allowed)
        scores = np.full(len(batch), -np.inf)
        scores[rows[s.fleet[TURN] % len(rows)]] = 0.0
    idle, fits = batch == 0, col[CAPACITY] >= tokens
    pending = col[SENT_REQUESTS] + col[WAITS]
    return columns.choose(scores, allowed, ready, idle, fits, pending, s.fleet[TURN])


def find_pairs(s: State, now_ns: int) -> bool:
    """Mark the migration sources, and return whether any instance can take their requests."""
    col, now, real = s.col, s.fleet, s.real
    if col.shape[1] == 0:
        return False
    head = col[HEAD_DEMAND].copy()
    owed = col[QUEUED_DEMAND] + col[SENT_TOKENS]
    terminating = col[TERMINATING] > 0
    held = now[HELD_BACK]
    if held >= 0 and now_ns / NS_PER_S - now[HELD_BACK_AT] / NS_PER_S <= real[SHOWN_S]:
        room = columns.startable(col[CAPACITY], col[PHYSICAL], col[RESERVED_TOKENS], owed)
        room = np.where(terminating, NO_ROOM, room)
        head[np.argmax(room)] += s.req[PROMPT][held] + s.req[OUT][held]
    used = columns.used(col[PHYSICAL], col[RESERVED_TOKENS], col[HEADROOM], head)
    source_room = (col[CAPACITY] - used).astype(np.float64)
    free = columns.steps_to_full(source_room, col[RUNS])
    was_source = col[SOURCE] > 0
    sources = columns.too_full(free, was_source, real[LOW_STEPS], real[RELEASE_STEPS])
    sources = sources | terminating
    for row in range(len(sources)):
        col[SOURCE][row] = sources[row]
    if not sources.any():
        return False
    if terminating.any():
        return True  # the scheduler decides what it may still hand on
    batch = col[RUNS] + col[WAITS] + col[SENT_REQUESTS]
    room_for_moves = columns.room_for_moves(source_room, head, owed)
    taking = columns.takes_moves(room_for_moves, batch, sources, real[HIGH_STEPS])
    return bool(taking.any())
