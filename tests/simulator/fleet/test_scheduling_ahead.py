"""Instances that make a step up while the one before is computed."""

import dataclasses

import numpy as np
import pytest

from policies.types import InstanceId
from simulator.calibration.measured import Measured
from simulator.calibration.rerun import rerun
from simulator.costs.presets import preset
from simulator.fleet.options import Outage
from simulator.workload.request import TraceRequest
from tests.simulator.simulated import SMALL, simulate, workload

AHEAD = dataclasses.replace(SMALL, schedules_ahead=True)


def test_who_arrives_during_a_step_waits_for_the_one_after_the_next() -> None:
    """Alone, a request is taken at once; amid a step, the next one is already made up."""
    config = dataclasses.replace(AHEAD, instances=1)
    requests = [TraceRequest(0, 0.0, 8, 20), TraceRequest(1, 0.0001, 8, 5)]
    _, (first, second) = simulate(requests, config)
    costs = preset("toy").costs
    steps_ns = [costs.step_ns([(0, 8)], 0, 0), costs.step_ns((), 1, 9)]
    assert first.admitted_ns == 0
    assert second.admitted_ns == sum(steps_ns)
    _, (_, sooner) = simulate(requests, dataclasses.replace(config, schedules_ahead=False))
    assert sooner.admitted_ns == steps_ns[0]


@pytest.mark.parametrize("ahead", [False, True])
def test_an_instance_schedules_as_a_rerun_does(ahead: bool) -> None:
    """One engine with a llumlet is the engine that calibration is judged by, to the nanosecond."""
    config = dataclasses.replace(SMALL, instances=1, capacity_tokens=32_768, schedules_ahead=ahead)
    requests = workload(200, rate=15)
    _, lives = simulate(requests, config, policy="round-robin", migration=False)
    zeros = np.zeros(len(requests))
    asked = Measured(
        np.array([one.prompt_tokens for one in requests]),
        np.array([one.output_tokens for one in requests]),
        np.array([life.arrived_ns / 1e9 for life in lives]),
        *(zeros, zeros, zeros),
    )
    served = rerun(asked, preset("toy").costs, config.shape(1).limits, ahead=ahead)
    assert [life.first_token_ns for life in lives] == np.round(served.first_s * 1e9).tolist()
    assert [life.last_token_ns for life in lives] == np.round(served.last_s * 1e9).tolist()


@pytest.mark.parametrize("policy", ["freeness", "round-robin"])
def test_nobody_is_lost_on_the_way_into_a_step(policy: str) -> None:
    """With short memory, migrations and an outage: all end, and nothing is left anywhere."""
    config = dataclasses.replace(AHEAD, capacity_tokens=1024)
    outages = [Outage(InstanceId("instance-1"), 1.0, 1.0)]
    fleet, lives = simulate(workload(300, rate=60), config, policy=policy, outages=outages)
    assert all(life.finished and life.tokens == life.request.output_tokens for life in lives)
    assert sum(life.restarts for life in lives) > 0
    assert len(fleet.scheduler.ledger) == 0
    for instance in fleet.wiring.instances.values():
        assert not instance.engine.requests()
