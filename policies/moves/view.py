"""What a proposer of moves sees: the fleet, and what may still be ordered in this round."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.moves.config import RebalanceConfig
from policies.types import FleetSnapshot, InstanceId, IntColumn, MigrateOrder


@dataclass(frozen=True, slots=True)
class MovesView:
    """All a proposer of moves may read.

    The snapshot's in-flight columns are filled in. `sources` are the instances to move requests
    away from: too full, or terminating. `slots_out` and `slots_in` are the moves each instance may
    still begin or take in, `slots` those the whole fleet may begin.
    """

    snapshot: FleetSnapshot
    headroom_tokens: IntColumn
    sources: frozenset[InstanceId]
    slots_out: IntColumn
    slots_in: IntColumn
    slots: int
    config: RebalanceConfig

    def after(self, proposed: Sequence[MigrateOrder]) -> "MovesView":
        """Return what is left for the next proposer of a round.

        A proposal keeps its slots and the room it needs, vetoed or not: most vetoes are temporary,
        and a later proposer must not take the place of an earlier one.
        """
        if not proposed:
            return self
        row = self.snapshot.rows
        slots_out, slots_in = self.slots_out.copy(), self.slots_in.copy()
        tokens = self.snapshot.in_flight_tokens.copy()
        requests = self.snapshot.in_flight_requests.copy()
        for order in proposed:
            if order.source in row:
                slots_out[row[order.source]] -= 1
            if order.destination in row:
                slots_in[row[order.destination]] -= 1
                tokens[row[order.destination]] += _expected_tokens(order)
                requests[row[order.destination]] += 1
        fleet = replace(self.snapshot, in_flight_tokens=tokens, in_flight_requests=requests)
        return replace(
            self,
            snapshot=fleet,
            slots_out=np.maximum(0, slots_out),
            slots_in=np.maximum(0, slots_in),
            slots=max(0, self.slots - len(proposed)),
        )


def _expected_tokens(order: MigrateOrder) -> int:
    told = order.expected_tokens
    return order.max_context_tokens if told is None else told
