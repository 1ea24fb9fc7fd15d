"""The front door (`simulator.fleet.front_door`) of a fleet laid out in columns, and its line-up.

The door decides who is served next; the kernel serves those lined up as room appears, so that
Python is not asked for each. A door that decides more than an order has the kernel ask about every
arrival and every room (DOOR_ASKS).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from policies.queue import Ticket
from policies.registry import PolicySpec
from policies.scheduler import GlobalScheduler
from policies.types import Dispatch, DispatchRequest, FleetSnapshot, Hold, InstanceId
from simulator.events import NS_PER_S, EventQueue
from simulator.fleet.front_door import FrontDoor
from simulator.fleet.life import Rejection
from simulator.kernel.compiled import Kernel
from simulator.kernel.front import ASK_POLICY, ASK_SUBMIT, WAITS_ON
from simulator.kernel.instance import ColumnInstance
from simulator.kernel.lives import Lives, name_of
from simulator.kernel.state import (
    ARRIVED,
    CLASS,
    DOOR_ASKS,
    FATE,
    HELD,
    HELD_BACK,
    HELD_BACK_AT,
    LINE_UP,
    LINED_UP,
    OPEN,
    OUT,
    REJECTED,
    ROW,
    SENT_TO,
    SERVED,
    State,
)
from simulator.workload.request import TraceRequest

LINE_UP_LENGTH = 64
"""Requests the kernel may serve before it must ask; few, because the list is often rewritten."""


class ColumnFleet(Protocol):
    """What the door needs of the fleet behind it."""

    events: EventQueue
    scheduler: GlobalScheduler
    state: State
    lives: Lives
    kernel: Kernel
    requests: Sequence[TraceRequest]
    instance_at: dict[int, ColumnInstance]

    def instances(self) -> dict[InstanceId, ColumnInstance]:
        """List the live instances."""

    def snapshot(self) -> FleetSnapshot:
        """Return the fleet as last reported."""


class ColumnPlacer:
    """Places requests, identified by their positions in the columns; see `DoorHost`."""

    def __init__(self, fleet: ColumnFleet) -> None:
        self._fleet = fleet

    def dispatch_request(self, request: int) -> DispatchRequest:
        """See DoorHost."""
        req, asked = self._fleet.state.req, self._fleet.requests[request]
        return DispatchRequest(
            name_of(asked),
            int(req[CLASS][request]),
            asked.prompt_tokens + int(req[OUT][request]),
            int(req[ARRIVED][request]) / NS_PER_S,
        )

    def number(self, request: int) -> int:
        """See DoorHost."""
        return self._fleet.requests[request].index

    def tokens_at_end(self, request: int) -> int:
        """See DoorHost."""
        asked = self._fleet.requests[request]
        return asked.prompt_tokens + asked.output_tokens

    def place(self, request: int) -> int | None:
        """See DoorHost."""
        fleet = self._fleet
        code = fleet.kernel.try_place(fleet.state, request, fleet.events.now_ns)
        if code == ASK_POLICY:
            code = self._ask_policy(request)
        return None if code == WAITS_ON else code

    def settle(self, request: int, placement: int) -> None:
        """See DoorHost."""
        if placement == ASK_SUBMIT:
            self.submit(request)

    def submit(self, request: int) -> None:
        """Queue a request at its former instance, which may still hold some of its KV."""
        self._fleet.instance_at[int(self._fleet.state.req[SENT_TO][request]) - 1].submit(request)

    def reject(self, request: int, why: Rejection, reason: str) -> None:
        """See DoorHost."""
        self._fleet.lives.rejections[request] = (why, reason)
        self._fleet.state.req[FATE][request] = REJECTED
        self._fleet.state.fleet[OPEN] -= 1

    def _ask_policy(self, request: int) -> int:
        """Dispatch by a policy that only Python knows."""
        fleet, state = self._fleet, self._fleet.state
        asked = self.dispatch_request(request)
        decision = fleet.scheduler.dispatch(asked, fleet.snapshot(), fleet.events.now_s)
        if isinstance(decision, Hold):
            state.fleet[HELD_BACK], state.fleet[HELD_BACK_AT] = request, fleet.events.now_ns
            return WAITS_ON
        assert isinstance(decision, Dispatch), decision
        fleet.scheduler.forget(asked.request_id)  # requests on their way are counted in the columns
        row = int(state.ins[ROW][fleet.instances()[decision.instance_id].at])
        return fleet.kernel.send(state, request, row, fleet.events.now_ns)


class LinedUpDoor(FrontDoor[int, int]):
    """A front door that tells the kernel which requests to serve next."""

    def __init__(
        self, discipline: PolicySpec, limit: int, capacity_tokens: int, fleet: ColumnFleet
    ) -> None:
        self.placer = ColumnPlacer(fleet)
        super().__init__(discipline, limit, capacity_tokens, self.placer)
        self._fleet = fleet
        self._lined_up: list[Ticket[int]] = []
        self._known_served = 0

    def begin(self) -> None:
        """Record which requests the kernel has served."""
        served = int(self._fleet.state.fleet[SERVED])
        for at in range(self._known_served, served):
            self._queue.leave(self._lined_up[at])
        self._known_served = served

    def end(self, joined: Ticket[int] | None = None) -> None:
        """Line up the requests to be served next."""
        state = self._fleet.state
        state.fleet[HELD] = len(self._queue)
        if state.fleet[DOOR_ASKS] or not len(self._queue) or self._still_lined_up(joined):
            return
        self._lined_up = self._queue.first(LINE_UP_LENGTH) or []
        positions, line_up = [ticket.item for ticket in self._lined_up], state.req[LINE_UP]
        line_up[: len(positions)] = (
            np.array(positions) if isinstance(line_up, np.ndarray) else positions
        )
        state.fleet[LINED_UP] = len(positions)
        state.fleet[SERVED] = self._known_served = 0

    def _still_lined_up(self, joined: Ticket[int] | None) -> bool:
        """Whether the requests lined up are still the next, in order."""
        lined_up, at = self._lined_up, self._known_served
        if at >= len(lined_up) or not lined_up[at].queued:
            return False
        return joined is None or not joined.queued or joined.order > lined_up[-1].order
