"""Small cases in which slips would show that hundreds of drawn ones may miss.

Each was shrunk from a larger one, found by chance, for as long as it still caught the slip it is
kept for. A case that Hypothesis finds is printed in this form.
"""

from migration.config import MigrationConfig
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import InstanceId
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.workload.request import PromptBlocks, TraceRequest
from tests.simulator.kernel.fleet_cases import CLASSES, Case

ON_THE_WAY_AT_A_REPORT = Case(
    config=SimulatorConfig(
        instances=3,
        preset="toy",
        max_num_seqs=3,
        token_budget=512,
        schedules_ahead=True,
        report_interval_s=0.0071,
    ),
    scheduler=SchedulerConfig(
        classes=CLASSES, dispatch=PolicySpec("least-requests"), migration=False
    ),
    migration=MigrationConfig(),
    requests=(
        TraceRequest(0, 0.355, 1200, 2),
        TraceRequest(1, 0.357, 1067, 4),
        TraceRequest(2, 0.368, 652, 4),
        TraceRequest(3, 0.371, 266, 2),
        TraceRequest(4, 0.373, 418, 3),
        TraceRequest(5, 0.378, 793, 4),
    ),
    outages=(Outage(InstanceId("instance-2"), 0.24800294092889727, 0.12400147046444863),),
    seed=300,
)
"""Whoever is too late for a step is still on the way when a report comes (`keep_sent`)."""

ENDS_SOONER_THAN_ONE_TOKEN_A_STEP = Case(
    config=SimulatorConfig(
        instances=4,
        preset="toy",
        max_num_seqs=3,
        token_budget=64,
        schedules_ahead=False,
        draft_tokens=3,
        acceptance=1.0,
    ),
    scheduler=SchedulerConfig(
        classes=CLASSES, dispatch=PolicySpec("freeness", {"late_binding": False}), migration=False
    ),
    migration=MigrationConfig(),
    requests=(TraceRequest(0, 0.103, 886, 173), TraceRequest(1, 0.189, 707, 162)),
    outages=(),
    seed=312,
)
"""With guesses, one ends between reports, sooner than at one token a step (`LEAST_STEP`)."""

FOUND_ALL_BUT_ONE_TOKEN = Case(
    config=SimulatorConfig(
        instances=1,
        preset="toy",
        capacity_tokens=640,
        max_num_seqs=16,
        token_budget=512,
        prefix_caching=True,
        draft_tokens=1,
        acceptance=0.3,
    ),
    scheduler=SchedulerConfig(
        classes=CLASSES, dispatch=PolicySpec("freeness", {}), migration=False
    ),
    migration=MigrationConfig(),
    requests=(
        TraceRequest(0, 0.004, 133, 139, "high", prompt_blocks=PromptBlocks.of(16, range(8))),
        TraceRequest(1, 0.004, 245, 157, prompt_blocks=PromptBlocks.of(16, range(100, 115))),
    ),
    outages=(),
    seed=0,
)
"""All but one token of what is computed again is found, and is no decode (`keep_right_guesses`)."""
