"""A fleet in virtual time whose size follows its load.

When a machine is ordered or given back is decided by `policies.scaling`, at every rebalance. What
that takes is done here: a new instance takes requests only when it has started; one to be given
back is drained by its llumlet, as any instance is (what is queued there goes back to the front, the
rebalance moves what runs), and stops when it is empty.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from migration.config import MigrationConfig
from policies.scaling import ScaleIn, ScaleOut, ScalingMemory, ScalingView, decide
from policies.scheduler import SchedulerConfig
from policies.types import InstanceId, IntColumn
from simulator.cluster.fleet import SimulatedFleet
from simulator.cluster.instance import Instance
from simulator.cluster.machines import Machine
from simulator.cluster.options import Outage, SimulatorConfig
from simulator.events import NS_PER_S, Priority


class ScaledFleet(SimulatedFleet):
    """Runs one workload, as `SimulatedFleet` does.

    `machines` are all there ever were, in the order in which they were ordered. One whose instance
    dies is held on where the instance will be back, and returned otherwise.
    """

    def __init__(
        self,
        config: SimulatorConfig,
        scheduler: SchedulerConfig,
        migration: MigrationConfig,
        seed: int = 0,
        outages: Sequence[Outage] = (),
    ) -> None:
        self.machines = [Machine(name) for name in config.names()]
        self._memory = ScalingMemory()
        self._starting: set[InstanceId] = set()
        self._draining: set[InstanceId] = set()
        self._headroom_tokens: IntColumn = np.array(
            [known.headroom_tokens for known in scheduler.classes], dtype=np.int64
        )
        super().__init__(config, scheduler, migration, seed, outages)

    def _rebalance(self) -> None:
        self._scale()
        super()._rebalance()

    def _report(self, instance: Instance) -> None:
        if instance.alive and instance.instance_id in self._draining:
            instance.llumlet.bounce_queued()
            self.pump(instance)
            if _empty(instance):
                self._take_down(instance)
                self._give_back(instance.instance_id)
        super()._report(instance)

    def _start(self, name: InstanceId, after_ns: int = 0) -> None:
        self._starting.discard(name)
        super()._start(name, after_ns)

    def _die(self, outage: Outage) -> None:
        name = outage.instance_id
        if name not in self.wiring.instances:
            return
        if name in self._draining:  # it was to go anyway
            outage = dataclasses.replace(outage, down_s=None)
        if outage.down_s is None:
            self._give_back(name)
        else:
            self._starting.add(name)
        super()._die(outage)

    # --- scaling ---

    def _scale(self) -> None:
        held = [life for _, life in self._held]
        view = ScalingView(
            self.scheduler.ledger.fill_in(self._now()),
            self._headroom_tokens,
            len(self._starting),
            len(held),
            sum(life.request.prompt_tokens + life.tokens for life in held),
        )
        now_s = self.events.now_s
        decision, self._memory = decide(view, self._memory, self.config.scaling, now_s)
        match decision:
            case ScaleOut():
                self._order()
            case ScaleIn(instance_id):
                self._drain(instance_id)

    def _order(self) -> None:
        """Order a machine; its instance takes requests when it has started."""
        name = InstanceId(f"instance-{len(self.machines)}")
        machine = Machine(name, self.events.now_ns, None)
        self.machines.append(machine)
        self._starting.add(name)

        def started() -> None:
            machine.ready_ns = self.events.now_ns
            self._start(name)

        delay_ns = round(self.config.start_delay_s * NS_PER_S)
        self.events.after(delay_ns, Priority.FAILURE, started)

    def _drain(self, name: InstanceId) -> None:
        """Have an instance empty itself; from now on the scheduler sends it nothing."""
        self._draining.add(name)
        self._loads[name] = dataclasses.replace(self._loads[name], terminating=True)
        self._snapshot = None
        instance = self.wiring.instances[name]
        instance.llumlet.drain(on=True)
        self.pump(instance)

    def _give_back(self, name: InstanceId) -> None:
        self._draining.discard(name)
        machine = next(one for one in self.machines if one.instance_id == name)
        machine.returned_ns = self.events.now_ns


def _empty(instance: Instance) -> bool:
    """Say whether nobody is here, on the way here, or on the way out."""
    llumlet = instance.llumlet
    return not (instance.engine.requests() or len(llumlet.departures) or len(llumlet.arrivals))
