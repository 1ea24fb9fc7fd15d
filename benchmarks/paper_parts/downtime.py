"""The cost of a move by context length, as in figure 10 of the paper: two instances, one move."""

from collections.abc import Mapping, Sequence

import numpy as np

from migration.config import MigrationConfig
from migration.llumlet.fleet_messages import MigrateOut
from paper_parts.plan import MEASURED_LINK_BYTES_PER_S, PRESET, fleet_config
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import (
    Dispatch,
    Explanation,
    InstanceId,
    MigrateOrder,
    MigrateReason,
    Reject,
    RequestId,
)
from simulator.costs.presets import preset
from simulator.events import NS_PER_S, Priority
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Life
from simulator.fleet.options import Outage
from simulator.workload.request import TraceRequest

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
MODES = ("live", "blocking copy", "recompute")
SOURCE, DESTINATION = InstanceId("instance-0"), InstanceId("instance-1")
_BATCH_TOKENS = 8192
_OTHERS, _OTHER_TOKENS, _OTHER_OUTPUTS = 10, 256, 220
"""The requests that run at the destination."""
_OUTPUT_TOKENS = 100
_ARRIVES_S = 2.2
"""When the request to be moved arrives: the batches around it are decoding by then."""
_BEGUN_TOKENS = 20
"""Its approximate output when it is moved; its prompt is as much shorter."""
_PHASES = 11
"""The number of offsets tried between the steps of the two instances."""
_PHASE_S = 0.0037


def downtimes_ms(
    lengths: Sequence[int] = LENGTHS, phases: int = _PHASES
) -> Mapping[str, Mapping[int, list[float]]]:
    """Measure by mode and context length, at several moments of the destination's step.

    `live, 8 GB/s` and `blocking copy, 8 GB/s` are with the line at its nominal speed.
    """
    nominal = preset(PRESET).link_bytes_per_s
    speeds = {"": MEASURED_LINK_BYTES_PER_S, ", 8 GB/s": nominal}
    modes = {
        f"{mode}{note}": (mode, speed)
        for note, speed in speeds.items()
        for mode in (MODES if not note else MODES[:2])
    }
    return {
        name: {
            length: [_once(mode, length, speed, phase * _PHASE_S) for phase in range(phases)]
            for length in lengths
        }
        for name, (mode, speed) in modes.items()
    }


def _once(mode: str, length: int, link_bytes_per_s: int, phase_s: float) -> float:
    # Its prompt takes 0.25 ms per token or less.
    ordered_s = _ARRIVES_S + 0.25e-3 * length + 1.0
    outages = [Outage(SOURCE, ordered_s)] if mode == "recompute" else []
    fleet = PlacedFleet(
        fleet_config(2, link_bytes_per_s),
        SchedulerConfig(dispatch=PolicySpec("round-robin"), migration=False),
        MigrationConfig(max_stages=0 if mode == "blocking copy" else 8),
        outages=outages,
    )
    # A source that dies takes its whole batch along: there the request is alone.
    at_source = 1 if mode == "recompute" else max(1, _BATCH_TOKENS // length)
    moved = TraceRequest(0, _ARRIVES_S, length - _BEGUN_TOKENS, _OUTPUT_TOKENS)
    beside = [TraceRequest(at, 0.0, length, _OUTPUT_TOKENS) for at in range(1, at_source)]
    there = range(at_source, at_source + _OTHERS)
    others = [TraceRequest(at, phase_s, _OTHER_TOKENS, _OTHER_OUTPUTS) for at in there]
    fleet.destined = dict.fromkeys(there, DESTINATION)
    if mode != "recompute":
        fleet.events.at(round(ordered_s * NS_PER_S), Priority.DECISION, fleet.move_first)
    life = fleet.run([moved, *beside, *others])[0]
    if mode == "recompute":
        usual_ns = float(np.median(fleet.usual_ns))
        return (life.longest_gap_ns - usual_ns) / 1e6
    assert len(life.moves) == 1, f"a context of {length} tokens was not moved ({mode})"
    return life.moves[0].downtime_ns / 1e6


class PlacedFleet(SimulatedFleet):
    """Two instances; requests go where `destined` says, else to the source while it lives."""

    destined: dict[int, InstanceId]
    usual_ns: list[int]

    def move_first(self) -> None:
        """Order the first request's move."""
        order = MigrateOrder(
            SOURCE, DESTINATION, 1 << 30, MigrateReason.MANUAL, Explanation("figure 10")
        )
        out = self.moves.order(order)
        chosen = MigrateOut(
            out.migration_id,
            out.destination,
            RequestId("request-0"),
            out.max_context_tokens,
            out.reason,
        )
        self._tell(self.wiring.instances[SOURCE], chosen)

    def place(self, request: Life) -> Dispatch | Reject | None:
        """See DoorHost."""
        name = self.destined.get(request.request.index, SOURCE)
        alive = name if name in self.wiring.instances else DESTINATION
        return Dispatch(alive, Explanation("figure 10"))

    def _restart(self, life: Life) -> None:
        self.usual_ns = [life.usual_interval_ns()]
        super()._restart(life)
