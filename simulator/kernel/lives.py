"""Requests held in columns, presented as the lives the rest of the simulator uses."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from policies.types import InstanceId, RequestId
from simulator.fleet.life import Fate, Life, Rejection
from simulator.kernel.state import (
    ADMITTED,
    AFTER_MOVE,
    ARRIVED,
    AT,
    CACHED,
    CLASS,
    DISPATCHED,
    FATE,
    FINISHED,
    FIRST,
    INTERFERENCE,
    LAST,
    LONGEST,
    MOVE_GAP,
    OUT,
    PREEMPTED,
    PREEMPTION_LOSS_NS,
    PREEMPTIONS,
    REJECTED,
    RESTARTS,
    RUNNING,
    SHARES,
    WAITING,
    WAITS_FOR,
    State,
)
from simulator.workload.request import TraceRequest

_FATES = {
    WAITING: Fate.WAITING,
    RUNNING: Fate.RUNNING,
    FINISHED: Fate.FINISHED,
    REJECTED: Fate.REJECTED,
}


_PREFIX = "request-"
_TOLD = (
    FATE,
    AT,
    OUT,
    DISPATCHED,
    ADMITTED,
    FIRST,
    LAST,
    LONGEST,
    PREEMPTIONS,
    PREEMPTED,
    PREEMPTION_LOSS_NS,
    INTERFERENCE,
    RESTARTS,
)


def name_of(request: TraceRequest) -> RequestId:
    """Return the name of a request."""
    return RequestId(f"{_PREFIX}{request.index}")


class Lives(Mapping[RequestId, Life]):
    """Every request's life, brought up to date on each access."""

    def __init__(
        self,
        requests: Sequence[TraceRequest],
        names: Sequence[InstanceId],
        state: State,
    ) -> None:
        self._requests, self._names, self.state = requests, names, state
        self.rejections: dict[int, tuple[Rejection, str]] = {}
        self._told: dict[int, Life] = {}
        self._positions: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[RequestId]:
        return map(self.name, range(len(self._requests)))

    def __getitem__(self, request_id: RequestId) -> Life:
        return self.at(self.position(request_id))

    def name(self, position: int) -> RequestId:
        """Return the request of this row."""
        return name_of(self._requests[position])

    def position(self, request_id: RequestId) -> int:
        """Return a request's row; raises KeyError for an unknown one."""
        if not request_id.startswith(_PREFIX):
            raise KeyError(request_id)  # such as "", of an order that found no request to move
        index = int(request_id.removeprefix(_PREFIX))
        if index < len(self._requests) and self._requests[index].index == index:
            return index
        if self._positions is None:
            self._positions = {one.index: at for at, one in enumerate(self._requests)}
        return self._positions[index]

    def at(self, r: int) -> Life:
        """Return the life of the request of a row."""
        life = self._told.get(r)
        if life is None:
            life = self._told[r] = self._new(r)
        self._update(life, r)
        return life

    def _new(self, r: int) -> Life:
        req = self.state.req
        return Life(self._requests[r], self.name(r), int(req[CLASS][r]), int(req[ARRIVED][r]))

    def all(self) -> list[Life]:
        """Return all lives, in the order of their rows."""
        req, n = self.state.req, len(self._requests)
        columns = [_whole(req[column])[:n] for column in _TOLD]
        told, names = self._told, self._names
        lives = []
        for r, (fate, at, *facts) in enumerate(zip(*columns, strict=True)):
            life = told.get(r)
            if life is None:
                life = self._new(r)
            self._tell(life, r, fate, names[at], facts)
            lives.append(life)
        return lives

    def _update(self, life: Life, r: int) -> None:
        fate, at, *facts = (int(self.state.req[column][r]) for column in _TOLD)
        self._tell(life, r, fate, self._names[at], facts)

    def _tell(
        self, life: Life, r: int, fate: int, instance_id: InstanceId, facts: list[int]
    ) -> None:
        life.fate = _FATES[fate]
        life.instance_id = instance_id if fate in (RUNNING, FINISHED) else None
        life.rejection, life.reason = self.rejections.get(r, (None, ""))
        (
            life.tokens,
            life.dispatched_ns,
            life.admitted_ns,
            life.first_token_ns,
            life.last_token_ns,
            life.longest_gap_ns,
            life.preemptions,
            life.preempted_ns,
            life.preemption_loss_ns,
            life.prefill_interference_ns,
            life.restarts,
        ) = facts
        if self.state.fleet[SHARES]:
            life.cached_tokens = int(self.state.req[CACHED][r])
        move = life.moves[-1] if life.moves else None
        waits = self.state.req[WAITS_FOR][r] & AFTER_MOVE
        if move is not None and move.committed_ns and not move.gap_ns and not waits:
            move.gap_ns = int(self.state.req[MOVE_GAP][r])


def _whole(column: Any) -> list[int]:
    """Read a column as Python numbers."""
    whole: list[int] = column.tolist() if isinstance(column, np.ndarray) else column
    return whole
