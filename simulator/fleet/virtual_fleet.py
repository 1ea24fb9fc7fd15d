"""What every fleet in virtual time consists of, however it advances its engines.

A scheduler, instances with llumlets, the network between them, and outages. `fleet` walks engines
step by step; `simulator.kernel` keeps them in columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from migration.config import MigrationConfig
from migration.llumlet.fleet_messages import MigrateOut, MigrationEvent
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import FleetSnapshot, InstanceId
from simulator.events import NS_PER_S, EventQueue, Priority
from simulator.fleet.life import Life
from simulator.fleet.moves import Moves
from simulator.fleet.network import Network
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.wiring import Wired, Wiring
from simulator.workload.request import TraceRequest

Kind = TypeVar("Kind", bound=Wired)
"""Of instance."""


@dataclass(frozen=True, slots=True)
class FleetSample:
    """The fleet at one time: freeness in decode steps and KV in use, by instance."""

    at_s: float
    ids: tuple[InstanceId, ...]
    freeness: list[float]
    kv_tokens: list[int]


class VirtualFleet(ABC, Generic[Kind]):
    """Serves one workload; make a new one for another run. Equal arguments give equal lives.

    `looks` may be set to a list before the run, which then gets a sample at every rebalance.
    `walked_instead` says why the faster kernels refused this fleet, if they were asked. Raises
    ValueError for an outage of an unknown instance.
    """

    moves: Moves
    walked_instead: str | None = None

    def __init__(
        self,
        config: SimulatorConfig,
        scheduler: SchedulerConfig,
        migration: MigrationConfig,
        seed: int,
        outages: Sequence[Outage],
    ) -> None:
        self.config = config
        self.events = EventQueue()
        self.scheduler = GlobalScheduler(scheduler, seed)
        self.network = Network(self.events, config.bytes_per_s(), config.message_latency_us * 1000)
        self.wiring: Wiring[Kind] = Wiring(self.events, self.network, self._heard)
        self.looks: list[FleetSample] | None = None
        self._migration = migration
        self._shape = config.shape(len(scheduler.classes), seed)
        self._interval_ns = round(config.report_interval_s * NS_PER_S)
        for outage in outages:
            self._plan(outage)

    @abstractmethod
    def run(
        self, requests: Sequence[TraceRequest], progress: Callable[[int], None] | None = None
    ) -> list[Life]:
        """Serve a workload to its end; return the requests' lives in the workload's order.

        `progress` is called periodically with the number of requests that have ended. Raises
        ValueError for a request of an unknown class, and for a prefix cache where nothing is known
        of any prompt.
        """

    @property
    @abstractmethod
    def running(self) -> int:
        """Count the requests that are at an instance now."""

    def instances(self) -> dict[InstanceId, Kind]:
        """List the live instances."""
        return self.wiring.instances

    @abstractmethod
    def _restart(self, life: Life) -> None:
        """Recompute a request at some instance, its outputs included."""

    # --- migrations ---

    def _move(self, fleet: FleetSnapshot) -> None:
        """Let the scheduler order migrations, and send the orders to their sources."""
        if self.looks is not None:
            freeness = self.scheduler.freeness(fleet).tolist()
            kv_tokens = fleet.physical_tokens.tolist()
            self.looks.append(FleetSample(self.events.now_s, fleet.ids, freeness, kv_tokens))
        for order in self.scheduler.rebalance(fleet, self.events.now_s):
            source = self.wiring.instances[order.source]
            self.network.post(partial(self._tell, source, self.moves.order(order)))

    def _tell(self, source: Kind, order: MigrateOut) -> None:
        if self.wiring.instances.get(source.instance_id) is source:
            source.llumlet.order(order)
            self.wiring.pump(source)

    def _heard(self, event: MigrationEvent) -> None:
        orphan = self.moves.heard(event)
        if orphan is not None:
            self._restart(orphan)

    # --- outages ---

    def _plan(self, outage: Outage) -> None:
        if outage.instance_id not in self.config.names():
            known = ", ".join(self.config.names())
            raise ValueError(f"there is no {outage.instance_id}; there are: {known}")
        die = partial(self._die, outage)
        self.events.at(round(outage.at_s * NS_PER_S), Priority.FAILURE, die)

    def _die(self, outage: Outage) -> None:
        instance = self.wiring.instances.get(outage.instance_id)
        if instance is None:
            return
        for life in self._take_down(instance):
            self._restart(life)
        if outage.down_s is not None:
            back_ns = round(outage.down_s * NS_PER_S)
            back = partial(self._start, outage.instance_id)
            self.events.after(back_ns, Priority.FAILURE, back)

    @abstractmethod
    def _take_down(self, instance: Kind) -> list[Life]:
        """Remove an instance; return the requests that were running there."""

    @abstractmethod
    def _start(self, name: InstanceId, after_ns: int = 0) -> None:
        """Start an instance, known to be empty; it first reports after a while, then regularly."""
