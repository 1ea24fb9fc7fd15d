"""A fleet in virtual time, fast: `simulator.fleet.fleet`, with the same results, on columns.

The kernel comes back to Python for what is rare: migrations and their messages, which are the
llumlets' own; the rebalance, which is the scheduler's; outages; and dispatch by a policy that the
kernel does not know.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from migration.config import MigrationConfig
from migration.engine import Gone
from migration.llumlet.fleet_messages import MigrateOut, MigrationEvent
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import (
    Dispatch,
    DispatchRequest,
    FleetSnapshot,
    Hold,
    InstanceId,
    MigrationId,
    RequestId,
)
from simulator.events import NS_PER_S, EventQueue, Priority
from simulator.fleet.fleet import FleetSample, check_prefixes
from simulator.fleet.life import Life
from simulator.fleet.moves import Moves
from simulator.fleet.network import Network
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.wiring import Wiring
from simulator.kernel import clockwork, front
from simulator.kernel.compiled import PLAIN, Kernel, available, compiled
from simulator.kernel.instance import ColumnInstance
from simulator.kernel.lives import Lives
from simulator.kernel.reports import snapshot
from simulator.kernel.setup import refusal, set_up
from simulator.kernel.state import (
    ARRIVED,
    AT,
    CAPACITY,
    CLASS,
    FATE,
    HELD_BACK,
    HELD_BACK_AT,
    LOOKING,
    NEVER,
    NOTE_DETACHED,
    NOTE_FINISHED,
    NOW,
    OPEN,
    ORDERS,
    OUT,
    PROMPT,
    REPORT_AT,
    REPORTED,
    RESTARTS,
    ROW,
    RUNNING,
    SENT,
    SLOT,
    SOURCE,
    SUBJECT,
    TURN,
    State,
    take_notes,
)
from simulator.workload.request import TraceRequest


class FastFleet:
    """Runs one workload; make a new one for another run. Equal arguments give equal lives.

    `compiled` says whether numba compiles it; None: if it is installed. `looks` may be set to a
    list before the run, which is then filled at every rebalance. The fleet keeps its size;
    `scaled_fleet` has one that does not. Raises ValueError for a fleet that cannot be put into
    columns (`simulator.kernel.setup.refusal`).
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
    ) -> None:
        if why_not := refusal(config, scheduler):
            raise ValueError(f"this fleet is to be walked step by step: {why_not}")
        self.config = config
        self.events = EventQueue()
        self.scheduler = GlobalScheduler(scheduler, seed)
        self.network = Network(self.events, config.bytes_per_s(), config.message_latency_us * 1000)
        self.wiring: Wiring[ColumnInstance] = Wiring(self.events, self.network, self._heard)
        self.looks: list[FleetSample] | None = None
        self._compiled = available() if compile_it is None else compile_it
        self._kernel: Kernel = compiled() if self._compiled else PLAIN
        self._migration = migration
        self._names = list(config.names())
        self._shape = config.shape(len(scheduler.classes), seed)
        self._sites: dict[int, ColumnInstance] = {}
        for outage in outages:
            self._plan(outage)

    def run(
        self, requests: Sequence[TraceRequest], progress: Callable[[int], None] | None = None
    ) -> list[Life]:
        """Serve a workload to its end; gives the requests' lives in the workload's order.

        `progress` is told now and then how many requests have ended. Raises ValueError for a
        request of an unknown class.
        """
        self.serve(requests, progress)
        return self.lives.all()

    def serve(
        self, requests: Sequence[TraceRequest], progress: Callable[[int], None] | None = None
    ) -> None:
        """Serve a workload to its end, and leave what became of it in the columns of `state`."""
        check_prefixes(self.config, requests)
        capacity_tokens = self._shape.limits.usable_tokens
        self.state = set_up(
            self.config, self.scheduler.config, self._shape, requests, arrays=self._compiled
        )
        self.state.fleet[LOOKING] = int(self.looks is not None)
        self.lives = Lives(
            requests, self._names, self.state, capacity_tokens, self.config.queue_limit
        )
        self.moves = Moves(self.scheduler, self.events, self.lives)
        self._requests = requests
        interval_ns = round(self.config.report_interval_s * NS_PER_S)
        for at in range(self.config.instances):
            self._start(at, after_ns=interval_ns * at // self.config.instances)
        self._go(progress)

    @property
    def running(self) -> int:
        """Count the requests that are at an instance now."""
        return sum(fate == RUNNING for fate in self.state.req[FATE])

    def instances(self) -> dict[InstanceId, ColumnInstance]:
        """List the instances alive."""
        return self.wiring.instances

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
        self._kernel.unsend(self.state, position)
        if self.state.fleet[HELD_BACK] == position:
            self.state.fleet[HELD_BACK] = -1
        self._kernel.hold(self.state, position)
        self._go_on(self._kernel.place(self.state, self.events.now_ns))

    # --- the kernel's turns and ours ---

    def _go(self, progress: Callable[[int], None] | None) -> None:
        run, now, turns = self._kernel.run, self.state.fleet, self._turns()
        while True:
            code = run(self.state, *(self.events.next_at() or (NEVER, int(Priority.DECISION))))
            if code == clockwork.DONE:
                break
            if code == clockwork.PAUSE:
                if progress is not None:
                    progress(len(self._requests) - int(now[OPEN]))
                continue
            self.events.now_ns = int(now[NOW])
            turns[code]()
            now[ORDERS] = len(self.scheduler.orders.active())

    def _turns(self) -> dict[int, Callable[[], object]]:
        """List what is done when the kernel comes back, by why it does."""
        return {
            clockwork.EVENT: self.events.advance,
            clockwork.TELL: self._tell_llumlets,
            clockwork.REBALANCE: self._rebalance,
            clockwork.DISPATCH: partial(self._go_on, front.ASK_POLICY),
            clockwork.SUBMIT: partial(self._go_on, front.ASK_SUBMIT),
        }

    def _tell_llumlets(self) -> None:
        """Pass on what the engines left word of: who is gone first, then who was detached."""
        told: dict[int, ColumnInstance] = {}
        for what, position in take_notes(self.state):
            site = self._sites[int(self.state.req[AT][position])]
            told[site.at] = site
            request_id = self.name(position)
            if what == NOTE_DETACHED:
                site.llumlet.detached(request_id, site.left_batch(position))
            else:
                why = Gone.FINISHED if what == NOTE_FINISHED else Gone.PREEMPTED
                site.llumlet.gone(request_id, why)
        for site in told.values():
            self.wiring.pump(site)

    def _go_on(self, code: int) -> None:
        """Do what the kernel's `place` asks for, until all that can be placed is."""
        while code != front.PLACED:
            code = self._ask_policy() if code == front.ASK_POLICY else self._submit()

    def _ask_policy(self) -> int:
        """Dispatch by a policy that only Python knows, and go on with the next request."""
        state = self.state
        position = int(state.fleet[SUBJECT])
        request = self._request(position)
        decision = self.scheduler.dispatch(request, self._snapshot(), self.events.now_s)
        if isinstance(decision, Hold):
            state.fleet[HELD_BACK], state.fleet[HELD_BACK_AT] = position, self.events.now_ns
            return front.PLACED
        assert isinstance(decision, Dispatch), decision
        self.scheduler.forget(request.request_id)  # what is on its way stands in the columns
        row = int(state.ins[ROW][self._names.index(decision.instance_id)])
        code = self._kernel.send(state, position, row, self.events.now_ns)
        return code if code == front.ASK_SUBMIT else self._kernel.place(state, self.events.now_ns)

    def _submit(self) -> int:
        """Send a request that was at an instance before, where something may be left of it."""
        position = int(self.state.fleet[SUBJECT])
        i = int(self.state.req[SENT][position]) - 1
        self._sites[i].submit(position)
        return self._kernel.place(self.state, self.events.now_ns)

    def _request(self, position: int) -> DispatchRequest:
        req = self.state.req
        return DispatchRequest(
            self.name(position),
            int(req[CLASS][position]),
            int(req[PROMPT][position] + req[OUT][position]),
            int(req[ARRIVED][position]) / NS_PER_S,
        )

    def _snapshot(self) -> FleetSnapshot:
        return snapshot(self.state, self._names, self.events.now_s)

    # --- instances ---

    def _start(self, at: int, after_ns: int = 0) -> None:
        """Start an instance, known to be empty; it first reports after a while, then regularly."""
        state, name, kernel = self.state, self._names[at], self._kernel
        site = ColumnInstance(
            at, name, self._shape, self._migration, state, kernel, self.events, self
        )
        self._sites[at] = self.wiring.instances[name] = site
        row = np.zeros((state.col.shape[0], 1), dtype=np.int64)
        row[CAPACITY] = self._shape.limits.usable_tokens
        row[SLOT], row[REPORTED] = at, self.events.now_ns
        state.ins[REPORT_AT][at] = self.events.now_ns + after_ns
        self._set_rows(np.concatenate([state.col, row], axis=1))

    def _set_rows(self, col: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> None:
        self._use(self.state._replace(col=np.ascontiguousarray(col)))
        for row, at in enumerate(col[SLOT]):
            self.state.ins[ROW][int(at)] = row
        self._kernel.next_report(self.state)

    def _use(self, state: State) -> None:
        """Go on with other memory."""
        self.state = self.lives.state = state
        for site in self._sites.values():
            site.state = state

    def _plan(self, outage: Outage) -> None:
        if outage.instance_id not in self._names:
            known = ", ".join(self._names)
            raise ValueError(f"there is no {outage.instance_id}; there are: {known}")
        die = partial(self._die, outage)
        self.events.at(round(outage.at_s * NS_PER_S), Priority.FAILURE, die)

    def _die(self, outage: Outage) -> None:
        site = self.wiring.instances.get(outage.instance_id)
        if site is None:
            return
        req = self.state.req
        for r in self._take_down(site):
            if req[FATE][r] == RUNNING and req[AT][r] == site.at:
                self._restart(r)
        if outage.down_s is not None:
            back_ns = round(outage.down_s * NS_PER_S)
            self.events.after(back_ns, Priority.FAILURE, partial(self._start, site.at))

    def _take_down(self, site: ColumnInstance) -> list[int]:
        """Have an instance exist no longer; gives the requests that were there."""
        here = site.die()
        del self._sites[site.at]
        self._set_rows(self.state.col[:, self.state.col[SLOT] != site.at])
        self.wiring.lose(site)
        self.moves.instance_gone(site.instance_id)
        return here

    def _restart(self, position: int) -> None:
        """Have a request computed anew somewhere, its outputs included."""
        self.state.req[RESTARTS][position] += 1
        self.requeued(position)

    # --- migrations ---

    def _rebalance(self) -> None:
        state, now_s = self.state, self.events.now_s
        fleet = self._snapshot()
        if self.looks is not None:
            freeness = self.scheduler.freeness(fleet).tolist()
            kv_tokens = fleet.physical_tokens.tolist()
            self.looks.append(FleetSample(now_s, fleet.ids, freeness, kv_tokens))
        held = None
        if state.fleet[HELD_BACK] >= 0:
            request = self._request(int(state.fleet[HELD_BACK]))
            held = (request, int(state.fleet[HELD_BACK_AT]) / NS_PER_S)
        sources = [self._names[int(i)] for i in state.col[SLOT][state.col[SOURCE] > 0]]
        self.scheduler.take_over(sources, held, int(state.fleet[TURN]))
        for order in self.scheduler.rebalance(fleet, now_s):
            source = self.wiring.instances[order.source]
            self.network.post(partial(self._tell, source, self.moves.order(order)))

    def _tell(self, source: ColumnInstance, order: MigrateOut) -> None:
        if self._sites.get(source.at) is source:
            source.llumlet.order(order)
            self.wiring.pump(source)

    def _heard(self, event: MigrationEvent) -> None:
        orphan = self.moves.heard(event)
        if orphan is not None:
            self._restart(self.position(RequestId(orphan.request_id)))
