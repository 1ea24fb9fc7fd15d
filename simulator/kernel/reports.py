"""The instances' last reports, from the columns, as the scheduler's snapshot."""

from collections.abc import Sequence

import numpy as np

from policies.types import FleetSnapshot, InstanceId
from simulator.events import NS_PER_S
from simulator.kernel.state import (
    BACKLOG,
    CAPACITY,
    COL_BY_CLASS,
    HEAD_DEMAND,
    PHYSICAL,
    QUEUED_DEMAND,
    REPORTED,
    RESERVED_TOKENS,
    SENT_REQUESTS,
    SENT_TOKENS,
    SLOT,
    TERMINATING,
    State,
)


def snapshot(s: State, names: Sequence[InstanceId], now_s: float) -> FleetSnapshot:
    """Return the fleet as last reported, and what was sent since."""
    col = s.col
    return FleetSnapshot(
        ids=tuple(names[int(i)] for i in col[SLOT]),
        capacity_tokens=col[CAPACITY].copy(),
        physical_tokens=col[PHYSICAL].copy(),
        head_demand_tokens=col[HEAD_DEMAND].copy(),
        queued_demand_tokens=col[QUEUED_DEMAND].copy(),
        reserved_tokens=col[RESERVED_TOKENS].copy(),
        prefill_backlog_tokens=col[BACKLOG].copy(),
        class_running=col[COL_BY_CLASS::2].T.copy(),
        class_waiting=col[COL_BY_CLASS + 1 :: 2].T.copy(),
        terminating=col[TERMINATING] > 0,
        age_s=now_s - col[REPORTED] / NS_PER_S,
        in_flight_tokens=col[SENT_TOKENS].copy(),
        in_flight_requests=col[SENT_REQUESTS].copy(),
        group=np.zeros(col.shape[1], dtype=np.int64),
    )
