"""A fast fleet in virtual time: `simulator.fleet.fleet`, with the same results, on columns.

The kernel returns to Python for rare events: migrations and their messages, which are the llumlets'
own; the rebalance, which is the scheduler's; outages; and dispatch by a policy that the kernel does
not know.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from migration.config import MigrationConfig
from migration.engine import Gone
from policies.scheduler import SchedulerConfig
from policies.types import (
    FleetSnapshot,
    InstanceId,
    MigrationId,
    RequestId,
)
from simulator.events import NS_PER_S, Priority
from simulator.fleet.fleet import check_prefixes
from simulator.fleet.life import Life
from simulator.fleet.moves import Moves
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.virtual_fleet import VirtualFleet
from simulator.kernel import clockwork, front
from simulator.kernel.compiled import PLAIN, Kernel, available, compiled
from simulator.kernel.door import LinedUpDoor
from simulator.kernel.instance import ColumnInstance
from simulator.kernel.lives import Lives
from simulator.kernel.reports import snapshot
from simulator.kernel.setup import refusal, set_up
from simulator.kernel.state import (
    AT,
    CAPACITY,
    DOOR_ASKS,
    FATE,
    HELD_BACK,
    HELD_BACK_AT,
    IDLE_AFTER,
    LOOKING,
    NEVER,
    NOTE_DETACHED,
    NOTE_FINISHED,
    NOW,
    OPEN,
    ORDERS,
    REPORT_AT,
    REPORTED,
    RESTARTS,
    ROW,
    RUNNING,
    SLOT,
    SOURCE,
    SUBJECT,
    TURN,
    WAITING,
    State,
    take_notes,
)
from simulator.workload.request import TraceRequest


class FastFleet(VirtualFleet[ColumnInstance]):
    """Fast-forwards equal steps, with the results of `simulator.fleet.fleet`.

    `compile_it` says whether to compile with numba; None: if it is installed. With `ask_door` the
    front door is asked about every arrival and every room that appears, as for a policy that only
    Python knows. The fleet keeps its size; that of `scaled_fleet` does not. Raises ValueError for a
    fleet the kernel does not support (`simulator.kernel.setup.refusal`).
    """

    def __init__(
        self,
        config: SimulatorConfig,
        scheduler: SchedulerConfig,
        migration: MigrationConfig,
        seed: int = 0,
        outages: Sequence[Outage] = (),
        *,
        compile_it: bool | None = None,
        ask_door: bool = False,
    ) -> None:
        if why_not := refusal(config, scheduler):
            raise ValueError(f"this fleet must be walked step by step: {why_not}")
        super().__init__(config, scheduler, migration, seed, outages)
        self._compiled = available() if compile_it is None else compile_it
        self.kernel: Kernel = compiled() if self._compiled else PLAIN
        self._names = list(config.names())
        self.instance_at: dict[int, ColumnInstance] = {}
        self._ask_door = ask_door

    def run(
        self, requests: Sequence[TraceRequest], progress: Callable[[int], None] | None = None
    ) -> list[Life]:
        """See VirtualFleet."""
        self.serve(requests, progress)
        return self.lives.all()

    def serve(
        self, requests: Sequence[TraceRequest], progress: Callable[[int], None] | None = None
    ) -> None:
        """Serve a workload to its end, and leave the results in the columns of `state`."""
        check_prefixes(self.config, requests)
        self.state = set_up(
            self.config, self.scheduler.config, self._shape, requests, arrays=self._compiled
        )
        self.state.fleet[LOOKING] = int(self.looks is not None)
        self.state.fleet[DOOR_ASKS] |= int(self._ask_door)
        self.lives = Lives(requests, self._names, self.state)
        self.moves = Moves(self.scheduler, self.events, self.lives)
        self.requests = requests
        self.door = LinedUpDoor(
            self.scheduler.config.queue,
            self.config.queue_limit,
            self._shape.limits.usable_tokens,
            self,
        )
        for at, name in enumerate(self.config.names()):
            self._start(name, after_ns=self._interval_ns * at // self.config.instances)
        self._go(progress)

    @property
    def running(self) -> int:
        """See VirtualFleet."""
        return sum(fate == RUNNING for fate in self.state.req[FATE])

    # --- Names ---

    def position(self, request_id: RequestId) -> int:
        """See Names."""
        return self.lives.position(request_id)

    def name(self, position: int) -> RequestId:
        """See Names."""
        return self.lives.name(position)

    def attached(self, position: int, instance_id: InstanceId, migration_id: MigrationId) -> None:
        """See Names."""
        life = self.lives.at(position)
        assert life.instance_id == instance_id, life
        move = life.moves[-1] if life.moves else None
        if move is not None and move.migration_id == migration_id:
            move.committed_ns = self.events.now_ns
            move.last_token_ns = life.last_token_ns
            move.usual_interval_ns = life.usual_interval_ns()

    def requeued(self, position: int) -> None:
        """See Names."""
        self.kernel.unsend(self.state, position)
        if self.state.fleet[HELD_BACK] == position:
            self.state.fleet[HELD_BACK] = -1
        self.state.req[FATE][position] = WAITING
        self.door.requeue(position)

    # --- the kernel's turns and ours ---

    def _go(self, progress: Callable[[int], None] | None) -> None:
        run, now, turns = self.kernel.run, self.state.fleet, self._turns()
        while True:
            code = run(self.state, *(self.events.next_at() or (NEVER, int(Priority.DECISION))))
            if code == clockwork.DONE:
                break
            if code == clockwork.PAUSE:
                if progress is not None:
                    progress(len(self.requests) - int(now[OPEN]))
                continue
            self.events.now_ns = int(now[NOW])
            turns[code]()
            if code != clockwork.ARRIVE:
                now[ORDERS] = len(self.scheduler.orders.active())

    def _turns(self) -> dict[int, Callable[[], object]]:
        """List what to do when the kernel returns, by return code."""
        return {
            clockwork.EVENT: self.events.advance,
            clockwork.TELL: self._tell_llumlets,
            clockwork.REBALANCE: self._rebalance,
            clockwork.ARRIVE: lambda: self.door.arrive(int(self.state.fleet[SUBJECT])),
            clockwork.OFFER: partial(self._go_on, front.ASK_DOOR),
            clockwork.SUBMIT: partial(self._go_on, front.ASK_SUBMIT),
        }

    def _tell_llumlets(self) -> None:
        """Pass on the engines' notes: the requests gone first, then those detached."""
        told: dict[int, ColumnInstance] = {}
        for what, position in take_notes(self.state):
            instance = self.instance_at[int(self.state.req[AT][position])]
            told[instance.at] = instance
            request_id = self.name(position)
            if what == NOTE_DETACHED:
                instance.llumlet.detached(request_id, instance.left_batch(position))
            else:
                why = Gone.FINISHED if what == NOTE_FINISHED else Gone.PREEMPTED
                instance.llumlet.gone(request_id, why)
        for instance in told.values():
            self.wiring.pump(instance)

    def _go_on(self, code: int) -> None:
        """Do what the kernel's `place` asks for, until everything that fits is placed."""
        while code == front.ASK_SUBMIT:
            self.door.placer.submit(int(self.state.fleet[SUBJECT]))
            code = self.kernel.place(self.state, self.events.now_ns)
        if code == front.ASK_DOOR:
            self.door.offer()

    def snapshot(self) -> FleetSnapshot:
        """See ColumnFleet."""
        return snapshot(self.state, self._names, self.events.now_s)

    # --- instances ---

    def _start(self, name: InstanceId, after_ns: int = 0) -> None:
        """See VirtualFleet."""
        state, at, kernel = self.state, self._names.index(name), self.kernel
        instance = ColumnInstance(
            at, name, self._shape, self._migration, state, kernel, self.events, self
        )
        self.instance_at[at] = self.wiring.instances[name] = instance
        row = np.zeros((state.col.shape[0], 1), dtype=np.int64)
        row[CAPACITY] = self._shape.limits.usable_tokens
        row[SLOT], row[REPORTED] = at, self.events.now_ns
        state.ins[REPORT_AT][at] = self.events.now_ns + after_ns
        self._set_rows(np.concatenate([state.col, row], axis=1))

    def _set_rows(self, col: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> None:
        self._use(self.state._replace(col=np.ascontiguousarray(col)))
        for row, at in enumerate(col[SLOT]):
            self.state.ins[ROW][int(at)] = row
        self.state.fleet[IDLE_AFTER] = -1
        self.kernel.next_report(self.state)

    def _use(self, state: State) -> None:
        """Continue with other memory."""
        self.state = self.lives.state = state
        for instance in self.instance_at.values():
            instance.state = state

    def _take_down(self, instance: ColumnInstance) -> list[Life]:
        """See VirtualFleet."""
        here, req = instance.die(), self.state.req
        del self.instance_at[instance.at]
        self._set_rows(self.state.col[:, self.state.col[SLOT] != instance.at])
        self.wiring.lose(instance)
        self.moves.instance_gone(instance.instance_id)
        runs_here = [r for r in here if req[FATE][r] == RUNNING and req[AT][r] == instance.at]
        return [self.lives.at(r) for r in runs_here]

    def _restart(self, life: Life) -> None:
        """See VirtualFleet."""
        position = self.position(RequestId(life.request_id))
        self.state.req[RESTARTS][position] += 1
        self.requeued(position)

    def _rebalance(self) -> None:
        """Advance the scheduler to the kernel's time."""
        state, held = self.state, None
        if state.fleet[HELD_BACK] >= 0:
            request = self.door.placer.dispatch_request(int(state.fleet[HELD_BACK]))
            held = (request, int(state.fleet[HELD_BACK_AT]) / NS_PER_S)
        sources = [self._names[int(i)] for i in state.col[SLOT][state.col[SOURCE] > 0]]
        self.scheduler.take_over(sources, held, int(state.fleet[TURN]))
        self._move(self.snapshot())
