"""The input and the output of a dispatch policy."""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.types import (
    BoolColumn,
    DispatchRequest,
    FleetSnapshot,
    FloatColumn,
    InstanceId,
    IntColumn,
)


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One instance of a snapshot in plain Python numbers, for policies written row by row.

    Units as in `FleetSnapshot`; `running` and `waiting` count requests of all classes.
    """

    instance_id: InstanceId
    capacity_tokens: int
    physical_tokens: int
    reserved_tokens: int
    queued_demand_tokens: int
    in_flight_tokens: int
    running: int
    waiting: int
    in_flight_requests: int
    terminating: bool


@dataclass(frozen=True, slots=True)
class DispatchView:
    """All a dispatch policy may read.

    The snapshot's in-flight columns are filled in. `candidates` are the rows the scheduler would
    accept, in order; scores of other rows are ignored. `headroom_tokens` has one number per class.
    `turn` counts the dispatches made so far: rotate by it, or draw by `chance(seed, turn,
    choices)`.
    """

    request: DispatchRequest
    snapshot: FleetSnapshot
    candidates: IntColumn
    headroom_tokens: IntColumn
    turn: int
    seed: int

    def rows(self) -> list[InstanceRow]:
        """List the instances in plain Python numbers, in snapshot order."""
        fleet = self.snapshot
        return [
            InstanceRow(*row)
            for row in zip(
                fleet.ids,
                fleet.capacity_tokens.tolist(),
                fleet.physical_tokens.tolist(),
                fleet.reserved_tokens.tolist(),
                fleet.queued_demand_tokens.tolist(),
                fleet.in_flight_tokens.tolist(),
                fleet.class_running.sum(axis=1).tolist(),
                fleet.class_waiting.sum(axis=1).tolist(),
                fleet.in_flight_requests.tolist(),
                fleet.terminating.tolist(),
                strict=True,
            )
        ]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A policy's answer: a score for every row of the snapshot, the highest is best.

    The scheduler breaks ties (fewest pending requests, then in rotation), so a policy need not.
    `ready`, when given, marks where the request could start soon: the scheduler sends it to one of
    those, and holds it back while there is none. It should depend on the instance alone, and not
    turn true because of more load: held requests are offered again at once when an instance by
    itself could start them, and now and then in any case.
    """

    scores: FloatColumn | Sequence[float]
    ready: BoolColumn | Sequence[bool] | None = None
