"""Replay a real server's requests on one simulated engine with the given costs."""

from dataclasses import dataclass, replace

import numpy as np

from policies.types import RequestId
from simulator.calibration.measured import Ints, Measured
from simulator.costs.model import CostModel
from simulator.engine.batch import EngineRequest, StepResult
from simulator.engine.engine import Engine
from simulator.engine.roster import EngineLimits

NS_PER_S = 1e9


@dataclass
class _Lengths:
    """Ends each request at the length it had."""

    output_tokens: dict[RequestId, int]

    def produced(self, request: EngineRequest) -> bool:
        """See EngineHost."""
        return request.output_tokens >= self.output_tokens[request.request_id]

    def preempted(self, request: EngineRequest) -> None:
        """See EngineHost."""

    def detached(self, request: EngineRequest) -> None:
        """See EngineHost."""


def rerun(
    measured: Measured, costs: CostModel, limits: EngineLimits, *, ahead: bool = False
) -> Measured:
    """Serve the same arrivals and lengths; return the times they get in simulation.

    With `ahead`, a step is planned when the one before begins: later arrivals are not in it, and
    its requests count as scheduled at that time.
    """
    ids = [RequestId(str(index)) for index in range(len(measured))]
    lengths = dict(zip(ids, measured.output_tokens.tolist(), strict=True))
    engine = Engine(limits, costs, _Lengths(lengths))
    prompts = measured.prompt_tokens.tolist()
    arrivals = np.round(measured.arrived_s * NS_PER_S).astype(np.int64).tolist()
    times = np.zeros((3, len(ids)), dtype=np.int64)
    scheduled: set[int] = set()
    now_ns = seen_ns = next_arrival = 0
    while True:
        while next_arrival < len(ids) and arrivals[next_arrival] <= seen_ns:
            engine.add(ids[next_arrival], 0, prompts[next_arrival])
            next_arrival += 1
        plan = engine.plan_step()
        if plan is None:
            if next_arrival == len(ids):
                break
            now_ns = seen_ns = max(now_ns, arrivals[next_arrival])
            continue
        for chunk in plan.prefills:
            index = int(chunk.request.request_id)
            if index not in scheduled:
                scheduled.add(index)
                times[0, index] = seen_ns
        begun_ns, now_ns = now_ns, now_ns + plan.cost_ns
        seen_ns = begun_ns if ahead else now_ns
        _note(engine.complete_step(plan), times, now_ns)
    scheduled_s, first_s, last_s = times / NS_PER_S
    return replace(measured, scheduled_s=scheduled_s, first_s=first_s, last_s=last_s)


def _note(result: StepResult, times: Ints, now_ns: int) -> None:
    for request in result.produced:
        if request.output_tokens == 1:
            times[1, int(request.request_id)] = now_ns
    for request in result.finished:
        times[2, int(request.request_id)] = now_ns
