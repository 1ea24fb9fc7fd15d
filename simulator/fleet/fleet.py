"""A fleet in virtual time: requests arrive at the front, and everything else follows.

What the real fleet does between its frontend and its llumlets (`llumnix/fleet/fleet.py`) is done
here in the same order: requests wait in the same queue, reports arrive at an interval, the queue is
offered to the scheduler after each report, and the fleet is rebalanced periodically. Every decision
is the scheduler's, and every migration is carried out by the llumlets.
"""

from collections.abc import Callable, Sequence
from functools import partial

from migration.config import MigrationConfig
from policies.scheduler import SchedulerConfig
from policies.types import (
    Dispatch,
    DispatchRequest,
    FleetSnapshot,
    Hold,
    InstanceId,
    InstanceLoad,
    Reject,
    RequestId,
)
from simulator.events import NS_PER_S, Priority
from simulator.fleet.front_door import FrontDoor
from simulator.fleet.instance import SimulatedInstance
from simulator.fleet.life import Fate, Life, Rejection
from simulator.fleet.moves import Moves
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.virtual_fleet import VirtualFleet
from simulator.workload.request import TraceRequest


def check_prefixes(config: SimulatorConfig, requests: Sequence[TraceRequest]) -> None:
    """Raise ValueError for a prefix cache where the workload tells nothing about its prompts."""
    if config.prefix_caching and not any(one.prompt_blocks for one in requests):
        raise ValueError(
            "prefix_caching has no effect: this workload does not say which prompts begin "
            "alike (traces of Mooncake and Qwen-Bailian do)"
        )


class SimulatedFleet(VirtualFleet[SimulatedInstance]):
    """Walks every step of every engine: the reference. `scaled_fleet` has one that grows."""

    def __init__(
        self,
        config: SimulatorConfig,
        scheduler: SchedulerConfig,
        migration: MigrationConfig,
        seed: int = 0,
        outages: Sequence[Outage] = (),
    ) -> None:
        super().__init__(config, scheduler, migration, seed, outages)
        self.lives: dict[RequestId, Life] = {}
        self.moves = Moves(self.scheduler, self.events, self.lives)
        self._class_names = [known.name for known in scheduler.classes]
        self._loads: dict[InstanceId, InstanceLoad] = {}
        self.door: FrontDoor[Life, Dispatch | Reject] = FrontDoor(
            scheduler.queue, config.queue_limit, self._shape.limits.usable_tokens, self
        )
        self._open = 0
        self._snapshot: FleetSnapshot | None = None
        self._snapshot_ns = -1
        for number, name in enumerate(config.names()):
            self._start(name, after_ns=self._interval_ns * number // config.instances)

    def run(
        self, requests: Sequence[TraceRequest], progress: Callable[[int], None] | None = None
    ) -> list[Life]:
        """See VirtualFleet."""
        check_prefixes(self.config, requests)
        lives = [self._new_life(request) for request in requests]
        for life in lives:
            self.events.at(life.arrived_ns, Priority.ARRIVAL, partial(self.door.arrive, life))
        self._open = len(lives)
        self._rebalance_later()
        while self._open and self.events.advance():
            if progress is not None and not self.events.done % 4096:
                progress(len(lives) - self._open)
        assert not self._open, f"{self._open} requests never ended: no event is left"
        return lives

    @property
    def running(self) -> int:
        """See VirtualFleet."""
        return sum(life.fate is Fate.RUNNING for life in self.lives.values())

    # --- InstanceOwner ---

    def life(self, request_id: RequestId) -> Life:
        """See InstanceOwner."""
        return self.lives[request_id]

    def ended(self, life: Life) -> None:
        """See InstanceOwner."""
        self._close(life, Fate.FINISHED)
        self.scheduler.forget(RequestId(life.request_id))

    def requeued(self, request_id: RequestId) -> None:
        """See InstanceOwner."""
        self._requeue(self.lives[request_id])

    def pump(self, instance: SimulatedInstance) -> None:
        """See InstanceOwner."""
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

    def _requeue(self, life: Life) -> None:
        """Put a request back in the queue at the front door."""
        self.scheduler.forget(RequestId(life.request_id))
        life.fate = Fate.WAITING
        life.instance_id = None
        self.door.requeue(life)

    # --- DoorHost ---

    def dispatch_request(self, request: Life) -> DispatchRequest:
        """See DoorHost."""
        return DispatchRequest(
            RequestId(request.request_id),
            request.class_index,
            request.request.prompt_tokens + request.tokens,
            request.arrived_ns / NS_PER_S,
        )

    def number(self, request: Life) -> int:
        """See DoorHost."""
        return request.request.index

    def tokens_at_end(self, request: Life) -> int:
        """See DoorHost."""
        return request.request.prompt_tokens + request.request.output_tokens

    def place(self, request: Life) -> Dispatch | Reject | None:
        """See DoorHost."""
        asked = self.dispatch_request(request)
        decision = self.scheduler.dispatch(asked, self._now(), self.events.now_s)
        return None if isinstance(decision, Hold) else decision

    def settle(self, request: Life, placement: Dispatch | Reject) -> None:
        """See DoorHost."""
        if isinstance(placement, Reject):
            self.reject(request, Rejection.BY_POLICY, placement.reason)
            return
        request.fate = Fate.RUNNING
        request.dispatched_ns = request.dispatched_ns or self.events.now_ns
        self.wiring.instances[placement.instance_id].submit(request)

    def reject(self, request: Life, why: Rejection, reason: str) -> None:
        """See DoorHost."""
        request.rejection, request.reason = why, reason
        self._close(request, Fate.REJECTED)

    def _close(self, life: Life, fate: Fate) -> None:
        life.fate = fate
        self._open -= 1

    # --- reports ---

    def _start(self, name: InstanceId, after_ns: int = 0) -> None:
        """See VirtualFleet."""
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
        self.door.offer()
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
        self._move(self._now())
        self._rebalance_later()

    def _restart(self, life: Life) -> None:
        """See VirtualFleet."""
        life.restarts += 1
        self._requeue(life)

    def _take_down(self, instance: SimulatedInstance) -> list[Life]:
        """See VirtualFleet."""
        here = instance.die()
        self.wiring.lose(instance)
        del self._loads[instance.instance_id]
        self._snapshot = None
        self.moves.instance_gone(instance.instance_id)
        runs_here = (Fate.RUNNING, instance.instance_id)
        return [life for life in here if (life.fate, life.instance_id) == runs_here]
