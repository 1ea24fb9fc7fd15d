"""A fast fleet whose size follows its load: `simulator.fleet.scaled_fleet`, on columns.

The kernel returns to Python for every decision about the fleet's size, and for every report of an
instance that is drained.
"""

from collections.abc import Callable, Sequence

from policies.scaling import ScaleIn, ScaleOut
from policies.types import InstanceId
from simulator.fleet.machine_pool import MachinePool
from simulator.fleet.machines import Machine
from simulator.fleet.options import Outage
from simulator.kernel import clockwork
from simulator.kernel.engine.slots import one_more
from simulator.kernel.fleet import FastFleet
from simulator.kernel.instance import ColumnInstance
from simulator.kernel.state import SUBJECT
from simulator.workload.request import TraceRequest


class ScaledFastFleet(FastFleet):
    """Runs one workload, as `FastFleet` does, on the machines of its `pool`."""

    pool: MachinePool

    def serve(
        self, requests: Sequence[TraceRequest], progress: Callable[[int], None] | None = None
    ) -> None:
        """See FastFleet."""
        self.pool = MachinePool(self.config, self.scheduler.config)
        super().serve(requests, progress)

    @property
    def machines(self) -> Sequence[Machine]:
        """List every instance there ever was."""
        return self.pool.machines

    def _turns(self) -> dict[int, Callable[[], object]]:
        mine = {clockwork.SCALE: self._scale, clockwork.DRAIN: self._report_of_drained}
        return super()._turns() | mine

    def _start(self, name: InstanceId, after_ns: int = 0) -> None:
        self.pool.starting.discard(name)
        super()._start(name, after_ns)

    def _die(self, outage: Outage) -> None:
        if outage.instance_id in self.wiring.instances:
            super()._die(self.pool.died(outage, self.events.now_ns))

    # --- scaling ---

    def _scale(self) -> None:
        waiting, tokens = self.door.waiting()
        match self.pool.decide(self.snapshot(), waiting, tokens, self.events.now_s):
            case ScaleOut():
                self._use(one_more(self.state, len(self._names)))
                self._names.append(self.pool.order(self.events, self._start).instance_id)
            case ScaleIn(instance_id):
                self._drain(instance_id)
        if self.kernel.rebalance(self.state, self.events.now_ns) == clockwork.REBALANCE:
            self._rebalance()

    def _drain(self, name: InstanceId) -> None:
        """Drain an instance; from now on no request is sent to it."""
        self.pool.draining.add(name)
        instance = self.wiring.instances[name]
        instance.llumlet.drain(on=True)
        self.wiring.pump(instance)

    def _report_of_drained(self) -> None:
        """Send back the queued requests; then return the machine, or take in the report."""
        instance = self.instance_at[int(self.state.fleet[SUBJECT])]
        instance.llumlet.bounce_queued()
        self.wiring.pump(instance)
        if _empty(instance):
            self._take_down(instance)
            self.pool.give_back(instance.instance_id, self.events.now_ns)
        else:
            self._go_on(self.kernel.take_report(self.state, instance.at, self.events.now_ns))


def _empty(instance: ColumnInstance) -> bool:
    """Whether no request is here, on the way here, or on the way out."""
    return instance.empty and not (
        len(instance.llumlet.departures) or len(instance.llumlet.arrivals)
    )
