"""The machines of a scaled fleet: the target number, and what becomes of each."""

import dataclasses
from collections.abc import Callable

import numpy as np

from policies.scaling import ScalingDecision, ScalingMemory, ScalingView, decide
from policies.scheduler import SchedulerConfig
from policies.types import FleetSnapshot, InstanceId, IntColumn
from simulator.events import NS_PER_S, EventQueue, Priority
from simulator.fleet.machines import Machine
from simulator.fleet.options import Outage, SimulatorConfig


class MachinePool:
    """All machines there ever were, in the order in which they were ordered.

    Those `starting` accept no requests yet, those `draining` no longer; times are in ns. A machine
    whose instance dies is kept if the instance will be back, and returned otherwise.
    """

    def __init__(self, config: SimulatorConfig, scheduler: SchedulerConfig) -> None:
        self.machines = [Machine(name) for name in config.names()]
        self.starting: set[InstanceId] = set()
        self.draining: set[InstanceId] = set()
        self._config = config.scaling
        self._start_delay_ns = round(config.start_delay_s * NS_PER_S)
        self._memory = ScalingMemory()
        self._headroom_tokens: IntColumn = np.array(
            [known.headroom_tokens for known in scheduler.classes], dtype=np.int64
        )

    def decide(
        self, snapshot: FleetSnapshot, held_requests: int, held_tokens: int, now_s: float
    ) -> ScalingDecision | None:
        """Decide whether to order or drain a machine; the snapshot's ledger is filled in."""
        view = ScalingView(
            snapshot, self._headroom_tokens, len(self.starting), held_requests, held_tokens
        )
        decision, self._memory = decide(view, self._memory, self._config, now_s)
        return decision

    def order(self, events: EventQueue, start: Callable[[InstanceId], None]) -> Machine:
        """Order a machine, whose instance is started once it is ready."""
        machine = Machine(InstanceId(f"instance-{len(self.machines)}"), events.now_ns, None)
        self.machines.append(machine)
        self.starting.add(machine.instance_id)

        def ready() -> None:
            machine.ready_ns = events.now_ns
            start(machine.instance_id)

        events.after(self._start_delay_ns, Priority.FAILURE, ready)
        return machine

    def give_back(self, name: InstanceId, now_ns: int) -> None:
        """Record that a machine is returned."""
        self.draining.discard(name)
        machine = next(one for one in self.machines if one.instance_id == name)
        machine.returned_ns = now_ns

    def died(self, outage: Outage, now_ns: int) -> Outage:
        """Record that an instance died; one that was to go anyway does not come back."""
        name = outage.instance_id
        if name in self.draining:
            outage = dataclasses.replace(outage, down_s=None)
        if outage.down_s is None:
            self.give_back(name, now_ns)
        else:
            self.starting.add(name)
        return outage
