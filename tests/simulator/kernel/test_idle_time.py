"""Idle time costs next to nothing and changes nothing: what is left out could have done nothing.

The stepwise fleet walks all of it, and stays the reference.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration.config import MigrationConfig
from policies.registry import PolicySpec
from policies.scaling import ScalingConfig
from policies.scheduler import SchedulerConfig
from policies.types import InstanceId
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Fate
from simulator.fleet.options import Outage
from simulator.kernel.fleet import FastFleet
from simulator.kernel.state import REPORTS
from simulator.workload.request import TraceRequest
from tests.simulator.kernel.drawn_cases import cases
from tests.simulator.kernel.fleet_cases import Case, facts, presets_for_cases
from tests.simulator.simulated import SMALL


@pytest.fixture(scope="module", autouse=True)
def _presets() -> Iterator[None]:
    with presets_for_cases():
        yield


def outcome(fleet: SimulatedFleet | FastFleet, requests: Sequence[TraceRequest]) -> dict[str, Any]:
    """Run a fleet that nobody watches, and say all there is to say."""
    lives = fleet.run(requests)
    return {
        "lives": [facts(life) for life in lives],
        "log": fleet.moves.log,
        "steps": {name: (one.steps, one.busy_ns) for name, one in fleet.instances().items()},
    }


@st.composite
def gapped(draw: st.DrawFn) -> Case:
    """Draw a fleet of fixed size whose requests come in bursts, with idle times between them.

    An outage may begin or end in the midst of such a time.
    """
    case = draw(cases())
    gaps_s = st.sampled_from([*[0.0] * 12, 0.3, 1.7, 4.9, 5.1, 12.34567])
    late_s, requests = 0.0, []
    for request in case.requests:
        late_s += draw(gaps_s)
        requests.append(dataclasses.replace(request, arrival_s=request.arrival_s + late_s))
    outages = [
        Outage(
            each.instance_id,
            each.at_s + draw(gaps_s),
            (each.down_s or 0.5) + draw(gaps_s),  # if all were dead for good, it would never end
        )
        for each in case.outages
    ]
    config = dataclasses.replace(case.config, scaling=ScalingConfig())
    return dataclasses.replace(case, config=config, requests=requests, outages=outages)


@pytest.mark.timeout(600)  # what is found is shrunk for up to five minutes
@settings(max_examples=30, deadline=None)
@given(gapped())
def test_leaving_out_idle_time_changes_nothing(case: Case) -> None:
    made = case.config, case.scheduler, case.migration, case.seed, case.outages
    walked = outcome(SimulatedFleet(*made), case.requests)

    assert outcome(FastFleet(*made, compile_it=False), case.requests) == walked


@pytest.mark.parametrize("policy", ["freeness", "round-robin", "power-of-two"])
def test_hours_without_a_request_cost_next_to_nothing(policy: str) -> None:
    """Two requests far apart: about as many reports as if they were close together."""
    requests = [TraceRequest(0, 0.0, 10, 5), TraceRequest(1, 36_000.0, 10, 5)]
    config = dataclasses.replace(SMALL, instances=16)
    scheduler = SchedulerConfig(dispatch=PolicySpec(policy))
    fleet = FastFleet(config, scheduler, MigrationConfig(), compile_it=False)
    lives = fleet.run(requests)

    assert [life.fate for life in lives] == [Fate.FINISHED] * 2
    assert fleet.state.fleet[REPORTS] < 1000  # walked, it would be 5,760,000


def test_an_outage_in_the_midst_of_idle_time_happens_in_time() -> None:
    outages = [Outage(InstanceId("instance-0"), 500.0, 250.0)]
    requests = [TraceRequest(0, 0.0, 10, 5), TraceRequest(1, 1000.0, 10, 5)]
    made = (SMALL, SchedulerConfig(), MigrationConfig(), 0, outages)
    walked = outcome(SimulatedFleet(*made), requests)

    fleet = FastFleet(*made, compile_it=False)
    assert outcome(fleet, requests) == walked
    assert fleet.state.fleet[REPORTS] < 1000
