"""A fleet in virtual time: requests come in at the front, and everything else follows.

What the real fleet does between its frontend and its llumlets (`llumnix/fleet/fleet.py`,
`llumnix/frontend/queue.py`) is done here in the same order: late binding by class and arrival,
reports at an interval, the scheduler asked again whenever one came in, a rebalance now and then.
Every decision is the scheduler's, and every migration is carried out by the llumlets.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from migration.config import MigrationConfig
from migration.llumlet.fleet_messages import MigrateOut, MigrationEvent
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import (
    Dispatch,
    DispatchRequest,
    FleetSnapshot,
    Hold,
    InstanceId,
    InstanceLoad,
    RequestId,
)
from simulator.events import NS_PER_S, EventQueue, Priority
from simulator.fleet.instance import SimulatedInstance
from simulator.fleet.life import Fate, Life
from simulator.fleet.moves import Moves
from simulator.fleet.network import Network
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.wiring import Wiring
from simulator.workload.request import TraceRequest


@dataclass(frozen=True, slots=True)
class FleetSample:
    """The fleet at a moment: freeness in decode steps and KV in use, by instance."""

    at_s: float
    ids: tuple[InstanceId, ...]
    freeness: list[float]
    kv_tokens: list[int]


def check_prefixes(config: SimulatorConfig, requests: Sequence[TraceRequest]) -> None:
    """Raise ValueError for a prefix cache where nothing is known of any prompt."""
    if config.prefix_caching and not any(one.prompt_blocks for one in requests):
        raise ValueError(
            "prefix_caching has no effect: this workload does not tell which prompts begin "
            "alike (traces of Mooncake and Qwen-Bailian do)"
        )


class SimulatedFleet:
    """Runs one workload; make a new one for another run. Equal arguments give equal lives.

    `looks` may be set to a list before the run, which is then filled at every rebalance. The fleet
    keeps its size; `scaled_fleet` has one that does not.
    """

    def __init__(
        self,
        config: SimulatorConfig,
        scheduler: SchedulerConfig,
        migration: MigrationConfig,
        seed: int = 0,
        outages: Sequence[Outage] = (),
    ) -> None:
        self.config = config
        self.events = EventQueue()
        self.scheduler = GlobalScheduler(scheduler, seed)
        self.network = Network(self.events, config.bytes_per_s(), config.message_latency_us * 1000)
        self.wiring: Wiring[SimulatedInstance] = Wiring(self.events, self.network, self._heard)
        self.lives: dict[RequestId, Life] = {}
        self.moves = Moves(self.scheduler, self.events, self.lives)
        self.looks: list[FleetSample] | None = None
        self._migration = migration
        self._class_names = [known.name for known in scheduler.classes]
        self._shape = config.shape(len(scheduler.classes), seed)
        self._loads: dict[InstanceId, InstanceLoad] = {}
        self._held: list[tuple[tuple[int, int, int], Life]] = []
        self._interval_ns = round(config.report_interval_s * NS_PER_S)
        self._open = 0
        self._snapshot: FleetSnapshot | None = None
        self._snapshot_ns = -1
        for number, name in enumerate(config.names()):
            self._start(name, after_ns=self._interval_ns * number // config.instances)
        for outage in outages:
            self._plan(outage)

    def run(
        self, requests: Sequence[TraceRequest], progress: Callable[[int], None] | None = None
    ) -> list[Life]:
        """Serve a workload to its end; gives the requests' lives in the workload's order.

        `progress` is told now and then how many requests have ended. Raises ValueError for a
        request of an unknown class, and for a prefix cache where nothing is known of any prompt.
        """
        check_prefixes(self.config, requests)
        lives = [self._new_life(request) for request in requests]
        for life in lives:
            self.events.at(life.arrived_ns, Priority.ARRIVAL, partial(self._arrive, life))
        self._open = len(lives)
        self._rebalance_later()
        while self._open and self.events.advance():
            if progress is not None and not self.events.done % 4096:
                progress(len(lives) - self._open)
        assert not self._open, f"{self._open} requests never ended: nothing is left to happen"
        return lives

    @property
    def running(self) -> int:
        """Count the requests that are at an instance now."""
        return sum(life.fate is Fate.RUNNING for life in self.lives.values())

    def instances(self) -> dict[InstanceId, SimulatedInstance]:
        """List the instances alive."""
        return self.wiring.instances

    # --- Ward ---

    def life(self, request_id: RequestId) -> Life:
        """See Ward."""
        return self.lives[request_id]

    def ended(self, life: Life) -> None:
        """See Ward."""
        self._close(life, Fate.FINISHED)
        self.scheduler.forget(RequestId(life.request_id))

    def requeued(self, request_id: RequestId) -> None:
        """See Ward."""
        self.scheduler.forget(request_id)
        self._hold(self.lives[request_id])

    def pump(self, instance: SimulatedInstance) -> None:
        """See Ward."""
        self.wiring.pump(instance)

    # --- requests ---

    def _new_life(self, request: TraceRequest) -> Life:
        if request.class_name not in self._class_names:
            known = ", ".join(self._class_names)
            raise ValueError(
                f"request {request.index} is of class {request.class_name!r}; known: {known}"
            )
        life = Life(
            request,
            f"request-{request.index}",
            self._class_names.index(request.class_name),
            round(request.arrival_s * NS_PER_S),
        )
        self.lives[RequestId(life.request_id)] = life
        return life

    def _arrive(self, life: Life) -> None:
        capacity = self._shape.limits.usable_tokens
        needed = life.request.prompt_tokens + life.request.output_tokens
        if needed > capacity:
            self._reject(life, f"{needed} tokens never fit in {capacity}")
            return
        self._hold(life)
        if len(self._held) > self.config.queue_limit and life.fate is Fate.WAITING:
            self._held = [one for one in self._held if one[1] is not life]
            self._reject(life, f"{self.config.queue_limit} requests are waiting already")

    def _hold(self, life: Life) -> None:
        life.fate = Fate.WAITING
        life.instance_id = None
        bisect.insort(
            self._held,
            ((life.class_index, life.arrived_ns, life.request.index), life),
            key=lambda one: one[0],
        )
        self._place()

    def _place(self) -> None:
        """Place what can be placed now, in order; nobody overtakes."""
        while self._held:
            life = self._held[0][1]
            if not self._dispatch(life):
                return

    def _dispatch(self, life: Life) -> bool:
        request = DispatchRequest(
            RequestId(life.request_id),
            life.class_index,
            life.request.prompt_tokens + life.tokens,
            life.arrived_ns / NS_PER_S,
        )
        decision = self.scheduler.dispatch(request, self._now(), self.events.now_s)
        if isinstance(decision, Hold):
            return False
        del self._held[0]
        if not isinstance(decision, Dispatch):
            self._reject(life, decision.reason)
            return True
        life.fate = Fate.RUNNING
        life.dispatched_ns = life.dispatched_ns or self.events.now_ns
        self.wiring.instances[decision.instance_id].submit(life)
        return True

    def _reject(self, life: Life, reason: str) -> None:
        life.reason = reason
        self._close(life, Fate.REJECTED)

    def _close(self, life: Life, fate: Fate) -> None:
        life.fate = fate
        self._open -= 1

    # --- reports ---

    def _start(self, name: InstanceId, after_ns: int = 0) -> None:
        """Start an instance, known to be empty; it first reports after a while, then regularly."""
        instance = SimulatedInstance(name, self._shape, self._migration, self.events, self)
        self.wiring.instances[name] = instance
        self._loads[name] = instance.load_at(self.events.now_s)
        self._snapshot = None
        self.events.after(after_ns, Priority.REPORT, lambda: self._report(instance))

    def _report(self, instance: SimulatedInstance) -> None:
        if not instance.alive:
            return
        self._loads[instance.instance_id] = instance.load_at(self.events.now_s)
        self._snapshot = None
        new_ids, instance.new_ids = instance.new_ids, []
        self.scheduler.confirm(instance.instance_id, new_ids)
        self._place()
        self.events.after(self._interval_ns, Priority.REPORT, lambda: self._report(instance))

    def _now(self) -> FleetSnapshot:
        """The fleet as the scheduler sees it: the last report of each instance."""
        if self._snapshot is None or self._snapshot_ns != self.events.now_ns:
            loads = [self._loads[name] for name in self.wiring.instances]
            classes = len(self._class_names)
            self._snapshot = FleetSnapshot.of(loads, self.events.now_s, classes)
            self._snapshot_ns = self.events.now_ns
        return self._snapshot

    # --- migrations ---

    def _rebalance_later(self) -> None:
        interval_ns = round(self.scheduler.config.rebalance.interval_s * NS_PER_S)
        self.events.after(interval_ns, Priority.DECISION, self._rebalance)

    def _rebalance(self) -> None:
        self._look()
        for order in self.scheduler.rebalance(self._now(), self.events.now_s):
            source = self.wiring.instances[order.source]
            self.network.post(partial(self._tell, source, self.moves.order(order)))
        self._rebalance_later()

    def _look(self) -> None:
        if self.looks is not None:
            fleet = self._now()
            freeness = self.scheduler.freeness(fleet).tolist()
            kv_tokens = fleet.physical_tokens.tolist()
            self.looks.append(FleetSample(self.events.now_s, fleet.ids, freeness, kv_tokens))

    def _tell(self, source: SimulatedInstance, order: MigrateOut) -> None:
        if source.alive:
            source.llumlet.order(order)
            self.pump(source)

    def _heard(self, event: MigrationEvent) -> None:
        orphan = self.moves.heard(event)
        if orphan is not None:
            self._restart(orphan)

    # --- outages ---

    def _restart(self, life: Life) -> None:
        """Have a request computed anew somewhere, its outputs included."""
        life.restarts += 1
        self.scheduler.forget(RequestId(life.request_id))
        self._hold(life)

    def _plan(self, outage: Outage) -> None:
        if outage.instance_id not in self.wiring.instances:
            known = ", ".join(self.wiring.instances)
            raise ValueError(f"there is no {outage.instance_id}; there are: {known}")
        self.events.at(round(outage.at_s * NS_PER_S), Priority.FAILURE, lambda: self._die(outage))

    def _die(self, outage: Outage) -> None:
        instance = self.wiring.instances.get(outage.instance_id)
        if instance is None:
            return
        for life in self._take_down(instance):
            if life.fate is Fate.RUNNING and life.instance_id == instance.instance_id:
                self._restart(life)
        if outage.down_s is not None:
            back_ns = round(outage.down_s * NS_PER_S)
            self.events.after(back_ns, Priority.FAILURE, lambda: self._start(outage.instance_id))

    def _take_down(self, instance: SimulatedInstance) -> list[Life]:
        """Have an instance exist no longer; gives the requests that were there."""
        orphans = instance.die()
        self.wiring.lose(instance)
        del self._loads[instance.instance_id]
        self._snapshot = None
        self.moves.instance_gone(instance.instance_id)
        return orphans
