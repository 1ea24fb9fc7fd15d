"""A fleet in virtual time whose size follows its load.

`policies.scaling` decides when a machine is ordered or given back, at every rebalance. The decision
is carried out here: a new instance accepts requests only when it has started; one to be given back
is drained by its llumlet, as any instance is (queued requests go back to the front, the rebalance
moves the running ones), and stops when it is empty.
"""

import dataclasses
from collections.abc import Sequence

from migration.config import MigrationConfig
from policies.scaling import ScaleIn, ScaleOut
from policies.scheduler import SchedulerConfig
from policies.types import InstanceId
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.instance import SimulatedInstance
from simulator.fleet.machine_pool import MachinePool
from simulator.fleet.machines import Machine
from simulator.fleet.options import Outage, SimulatorConfig


class ScaledFleet(SimulatedFleet):
    """Runs one workload, as `SimulatedFleet` does, on the machines of its `pool`."""

    def __init__(
        self,
        config: SimulatorConfig,
        scheduler: SchedulerConfig,
        migration: MigrationConfig,
        seed: int = 0,
        outages: Sequence[Outage] = (),
    ) -> None:
        self.pool = MachinePool(config, scheduler)
        super().__init__(config, scheduler, migration, seed, outages)

    @property
    def machines(self) -> Sequence[Machine]:
        """List every instance there ever was."""
        return self.pool.machines

    def _rebalance(self) -> None:
        self._scale()
        super()._rebalance()

    def _report(self, instance: SimulatedInstance) -> None:
        if instance.alive and instance.instance_id in self.pool.draining:
            instance.llumlet.bounce_queued()
            self.pump(instance)
            if _empty(instance):
                self._take_down(instance)
                self.pool.give_back(instance.instance_id, self.events.now_ns)
        super()._report(instance)

    def _start(self, name: InstanceId, after_ns: int = 0) -> None:
        self.pool.starting.discard(name)
        super()._start(name, after_ns)

    def _die(self, outage: Outage) -> None:
        if outage.instance_id in self.wiring.instances:
            super()._die(self.pool.died(outage, self.events.now_ns))

    # --- scaling ---

    def _scale(self) -> None:
        waiting, tokens = self.door.waiting()
        fleet = self.scheduler.ledger.fill_in(self._now())
        match self.pool.decide(fleet, waiting, tokens, self.events.now_s):
            case ScaleOut():
                self.pool.order(self.events, self._start)
            case ScaleIn(instance_id):
                self._drain(instance_id)

    def _drain(self, name: InstanceId) -> None:
        """Drain an instance; from now on the scheduler sends no request to it."""
        self.pool.draining.add(name)
        self._loads[name] = dataclasses.replace(self._loads[name], terminating=True)
        self._snapshot = None
        instance = self.wiring.instances[name]
        instance.llumlet.drain(on=True)
        self.pump(instance)


def _empty(instance: SimulatedInstance) -> bool:
    """Whether no request is here, on the way here, or on the way out."""
    llumlet = instance.llumlet
    return not (instance.engine.requests() or len(llumlet.departures) or len(llumlet.arrivals))
