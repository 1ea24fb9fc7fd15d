"""A fleet in virtual time, fast: `simulator.cluster.fleet`, with the same results, on columns.

The kernel comes back to Python for what is rare: migrations and their messages, which are the
llumlets' own; the rebalance, which is the scheduler's; outages; and dispatch by a policy that the
kernel does not know.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from migration.config import MigrationConfig
from migration.engine import Gone
from migration.orders import MigrateOut, MigrationEvent
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
from simulator.cluster.fleet import Look
from simulator.cluster.life import Life
from simulator.cluster.moves import Moves
from simulator.cluster.options import Outage, SimulatorConfig
from simulator.cluster.wiring import Wiring
from simulator.events import NS_PER_S, EventQueue, Priority
from simulator.fast import clockwork, front
from simulator.fast.compiled import PLAIN, Kernel, available, compiled
from simulator.fast.lives import Lives
from simulator.fast.reports import snapshot
from simulator.fast.setup import refusal, set_up
from simulator.fast.site import Site
from simulator.fast.state import (
    ARRIVED,
    AT,
    CAPACITY,
    CLASS,
    FATE,
    FIRST_NOTE,
    HELD_BACK,
    HELD_BACK_AT,
    LOOKING,
    NEVER,
    NOTE_DETACHED,
    NOTE_FINISHED,
    NOTES,
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
)
from simulator.network import Network
from simulator.workload.request import TraceRequest


class FastFleet:
    """Runs one workload; make a new one for another run. Equal arguments give equal lives.

    `compiled` says whether numba compiles it; None: if it is installed. `looks` may be set to a
    list before the run, which is then filled at every rebalance. Raises ValueError for a fleet
    that cannot be put into columns (`simulator.fast.setup.refusal`).
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
        self.wiring: Wiring[Site] = Wiring(self.events, self.network, self._heard)
        self.looks: list[Look] | None = None
        self._compiled = available() if compile_it is None else compile_it
        self._kernel: Kernel = compiled() if self._compiled else PLAIN
        self._migration = migration
        self._names = config.names()
        self._shape = config.shape(len(scheduler.classes), seed)
        self._sites: dict[int, Site] = {}
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
        capacity_tokens = self._shape.limits.usable_tokens
        self.state = set_up(
            self.config, self.scheduler.config, self._shape, requests, arrays=self._compiled
        )
        self.state.par[LOOKING] = int(self.looks is not None)
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

    def instances(self) -> dict[InstanceId, Site]:
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

    # --- the kernel's turns and ours ---

    def _go(self, progress: Callable[[int], None] | None) -> None:
        run, now = self._kernel.run, self.state.now
        turns = {
            clockwork.EVENT: self.events.advance,
            clockwork.TELL: self._tell_llumlets,
            clockwork.REBALANCE: self._rebalance,
            clockwork.DISPATCH: self._ask_policy,
            clockwork.SUBMIT: self._submit,
        }
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

    def _tell_llumlets(self) -> None:
        """Pass on what the engines left word of: who is gone first, then who was detached."""
        state = self.state
        notes = [
            (int(state.now[FIRST_NOTE + 2 * at]), int(state.now[FIRST_NOTE + 2 * at + 1]))
            for at in range(int(state.now[NOTES]))
        ]
        state.now[NOTES] = 0
        told: dict[int, Site] = {}
        for what, position in sorted(notes, key=lambda note: note[0] == NOTE_DETACHED):
            site = self._sites[int(state.req[AT][position])]
            told[site.at] = site
            request_id = self.name(position)
            if what == NOTE_DETACHED:
                site.llumlet.detached(request_id, site.left_batch(position))
            else:
                why = Gone.FINISHED if what == NOTE_FINISHED else Gone.PREEMPTED
                site.llumlet.gone(request_id, why)
        for site in told.values():
            self.wiring.pump(site)

    def _ask_policy(self) -> None:
        """Dispatch by a policy that only Python knows; then go on with the next request."""
        state = self.state
        position = int(state.now[SUBJECT])
        request = self._request(position)
        decision = self.scheduler.dispatch(request, self._snapshot(), self.events.now_s)
        if isinstance(decision, Hold):
            if state.col.shape[1]:
                state.now[HELD_BACK], state.now[HELD_BACK_AT] = position, self.events.now_ns
            return
        assert isinstance(decision, Dispatch), decision
        self.scheduler.forget(request.request_id)  # what is on its way stands in the columns
        row = int(state.ins[ROW][self._names.index(decision.instance_id)])
        code = self._kernel.send(state, position, row, self.events.now_ns)
        if code == front.ASK_SUBMIT:
            self._submit()
        else:
            self._place()

    def _submit(self) -> None:
        """Send a request that was at an instance before, where something may be left of it."""
        position = int(self.state.now[SUBJECT])
        i = int(self.state.req[SENT][position]) - 1
        self._sites[i].submit(position)
        self._place()

    def _place(self) -> None:
        code = self._kernel.place(self.state, self.events.now_ns)
        if code == front.ASK_POLICY:
            self._ask_policy()
        elif code == front.ASK_SUBMIT:
            self._submit()

    def _request(self, position: int) -> DispatchRequest:
        req, request = self.state.req, self._requests[position]
        return DispatchRequest(
            self.name(position),
            int(req[CLASS][position]),
            int(req[PROMPT][position] + req[OUT][position]),
            int(req[ARRIVED][position]) / NS_PER_S,
            request.tenant,
        )

    def _snapshot(self) -> FleetSnapshot:
        return snapshot(self.state, self._names, self.events.now_s)

    # --- instances ---

    def _start(self, at: int, after_ns: int = 0) -> None:
        """Start an instance, known to be empty; it first reports after a while, then regularly."""
        state = self.state
        site = Site(
            at,
            self._names[at],
            self._shape,
            self._migration,
            state,
            self._kernel,
            self.events,
            self,
        )
        self._sites[at] = self.wiring.instances[site.instance_id] = site
        row = np.zeros((state.col.shape[0], 1), dtype=np.int64)
        row[CAPACITY] = self._shape.limits.usable_tokens
        row[SLOT], row[REPORTED] = at, self.events.now_ns
        state.ins[REPORT_AT][at] = self.events.now_ns + after_ns
        self._set_rows(np.concatenate([state.col, row], axis=1))

    def _set_rows(self, col: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> None:
        self.state = self.lives.state = self.state._replace(col=np.ascontiguousarray(col))
        for row, at in enumerate(col[SLOT]):
            self.state.ins[ROW][int(at)] = row
        for site in self._sites.values():
            site.state = self.state
        self._kernel.next_report(self.state)

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
        here = site.die()
        self.wiring.lose(site)
        state, at = self.state, site.at
        orphans = [r for r in here if state.req[FATE][r] == RUNNING and state.req[AT][r] == at]
        for r in range(len(self._requests)):
            if state.req[SENT][r] == at + 1:
                state.req[SENT][r] = 0
        del self._sites[at]
        state.ins[REPORT_AT][at] = NEVER
        self._set_rows(state.col[:, state.col[SLOT] != at])
        self.moves.instance_gone(site.instance_id)
        for position in orphans:
            self._restart(position)
        if outage.down_s is not None:
            back_ns = round(outage.down_s * NS_PER_S)
            self.events.after(back_ns, Priority.FAILURE, partial(self._start, at))

    def _restart(self, position: int) -> None:
        """Have a request computed anew somewhere, its outputs included."""
        self.state.req[RESTARTS][position] += 1
        self._kernel.unsend(self.state, position)
        if self.state.now[HELD_BACK] == position:
            self.state.now[HELD_BACK] = -1
        self._kernel.hold(self.state, position)
        self._place()

    # --- migrations ---

    def _rebalance(self) -> None:
        state, now_s = self.state, self.events.now_s
        fleet = self._snapshot()
        if self.looks is not None:
            freeness = self.scheduler.freeness(fleet).tolist()
            kv_tokens = fleet.physical_tokens.tolist()
            self.looks.append(Look(now_s, fleet.ids, freeness, kv_tokens))
        held = None
        if state.now[HELD_BACK] >= 0:
            request = self._request(int(state.now[HELD_BACK]))
            held = (request, int(state.now[HELD_BACK_AT]) / NS_PER_S)
        sources = [self._names[int(i)] for i in state.col[SLOT][state.col[SOURCE] > 0]]
        self.scheduler.take_over(sources, held, int(state.now[TURN]))
        for order in self.scheduler.rebalance(fleet, now_s):
            source = self.wiring.instances[order.source]
            self.network.post(partial(self._tell, source, self.moves.order(order)))

    def _tell(self, source: Site, order: MigrateOut) -> None:
        if self._sites.get(source.at) is source:
            source.llumlet.order(order)
            self.wiring.pump(source)

    def _heard(self, event: MigrationEvent) -> None:
        orphan = self.moves.heard(event)
        if orphan is not None:
            self._restart(self.position(RequestId(orphan.request_id)))
