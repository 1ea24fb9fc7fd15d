"""Requests as columns hold them, told as the lives that the rest of the simulator knows."""

from collections.abc import Iterator, Mapping, Sequence

from policies.types import InstanceId, RequestId
from simulator.cluster.life import Fate, Life
from simulator.fast.state import (
    ADMITTED,
    AFTER_MOVE,
    ARRIVED,
    AT,
    CLASS,
    DISPATCHED,
    FATE,
    FINISHED,
    FIRST,
    INTERFERENCE,
    LAST,
    LONGEST,
    LOSS,
    MOVE_GAP,
    NEVER_FITS,
    OUT,
    PREEMPTED,
    PREEMPTIONS,
    PROMPT,
    REJECTED,
    RESTARTS,
    RUNNING,
    TARGET,
    WAITING,
    WAITS_FOR,
    WHY,
    State,
)
from simulator.workload.request import TraceRequest

_FATES = {
    WAITING: Fate.WAITING,
    RUNNING: Fate.RUNNING,
    FINISHED: Fate.FINISHED,
    REJECTED: Fate.REJECTED,
}


class Lives(Mapping[RequestId, Life]):
    """Every request's life, brought up to date whenever it is asked for."""

    def __init__(
        self,
        requests: Sequence[TraceRequest],
        names: Sequence[InstanceId],
        state: State,
        capacity_tokens: int,
        queue_limit: int,
    ) -> None:
        self._requests, self._names, self.state = requests, names, state
        self._capacity_tokens, self._queue_limit = capacity_tokens, queue_limit
        self._told: dict[int, Life] = {}
        self._positions: dict[RequestId, int] | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[RequestId]:
        return map(self.name, range(len(self._requests)))

    def __getitem__(self, request_id: RequestId) -> Life:
        return self.at(self.position(request_id))

    def name(self, position: int) -> RequestId:
        """Say which request has this row."""
        return RequestId(f"request-{self._requests[position].index}")

    def position(self, request_id: RequestId) -> int:
        """Say where a request's row is; raises KeyError for an unknown one."""
        if self._positions is None:
            self._positions = {self.name(at): at for at in range(len(self._requests))}
        return self._positions[request_id]

    def at(self, r: int) -> Life:
        """Tell the life of the request of a row."""
        req = self.state.req
        life = self._told.get(r)
        if life is None:
            life = self._told[r] = Life(
                self._requests[r], self.name(r), int(req[CLASS][r]), int(req[ARRIVED][r])
            )
        self._update(life, r)
        return life

    def _update(self, life: Life, r: int) -> None:
        req = self.state.req
        life.fate = _FATES[int(req[FATE][r])]
        placed = life.fate in (Fate.RUNNING, Fate.FINISHED)
        life.instance_id = self._names[int(req[AT][r])] if placed else None
        life.reason = self._reason(r) if life.fate is Fate.REJECTED else ""
        life.tokens = int(req[OUT][r])
        life.dispatched_ns = int(req[DISPATCHED][r])
        life.admitted_ns = int(req[ADMITTED][r])
        life.first_token_ns = int(req[FIRST][r])
        life.last_token_ns = int(req[LAST][r])
        life.longest_gap_ns = int(req[LONGEST][r])
        life.preemptions = int(req[PREEMPTIONS][r])
        life.preempted_ns = int(req[PREEMPTED][r])
        life.preemption_loss_ns = int(req[LOSS][r])
        life.prefill_interference_ns = int(req[INTERFERENCE][r])
        life.restarts = int(req[RESTARTS][r])
        move = life.moves[-1] if life.moves else None
        waits = int(req[WAITS_FOR][r]) & AFTER_MOVE
        if move is not None and move.committed_ns and not move.gap_ns and not waits:
            move.gap_ns = int(req[MOVE_GAP][r])

    def _reason(self, r: int) -> str:
        req = self.state.req
        if req[WHY][r] == NEVER_FITS:
            needed = int(req[PROMPT][r] + req[TARGET][r])
            return f"{needed} tokens never fit in {self._capacity_tokens}"
        return f"{self._queue_limit} requests are waiting already"
