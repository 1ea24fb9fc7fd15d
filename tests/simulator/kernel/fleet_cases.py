"""Random fleets and workloads with all features on, for the kernels to agree about."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from migration.config import MigrationConfig
from policies.dispatch import dispatch_policies
from policies.moves.config import RebalanceConfig
from policies.registry import PolicySpec
from policies.scaling import ScalingConfig
from policies.scheduler import SchedulerConfig
from policies.types import PriorityClass
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Life
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.scaled_fleet import ScaledFleet
from simulator.fleets import machines_of
from simulator.kernel.fleet import FastFleet
from simulator.kernel.scaled_fleet import ScaledFastFleet
from simulator.workload.request import PromptBlocks, TraceRequest
from tests.simulator.simulated import workload

ROOFLINE, MIXTURE, MEASURED = "test-roofline", "test-mixture", "test-table"
CLASSES = (PriorityClass("high", headroom_tokens=600), PriorityClass("normal"))


@dataclasses.dataclass(frozen=True)
class Case:
    """A fleet and what it serves."""

    config: SimulatorConfig
    scheduler: SchedulerConfig
    migration: MigrationConfig
    requests: Sequence[TraceRequest]
    outages: Sequence[Outage]
    seed: int

    def stepwise(self) -> dict[str, Any]:
        """Walk it."""
        made = ScaledFleet if self.config.scaling.on else SimulatedFleet
        fleet = made(self.config, self.scheduler, self.migration, self.seed, self.outages)
        return told(fleet, self.requests)

    def fast(self, *, compile_it: bool) -> dict[str, Any]:
        """Skip through it."""
        made = ScaledFastFleet if self.config.scaling.on else FastFleet
        fleet = made(
            self.config,
            self.scheduler,
            self.migration,
            self.seed,
            self.outages,
            compile_it=compile_it,
        )
        return told(fleet, self.requests)


def told(fleet: SimulatedFleet | FastFleet, requests: Sequence[TraceRequest]) -> dict[str, Any]:
    """Run it, and say all there is to say."""
    fleet.looks = []
    lives = fleet.run(requests)
    return {
        "lives": [facts(life) for life in lives],
        "log": fleet.moves.log,
        "steps": {name: (one.steps, one.busy_ns) for name, one in fleet.instances().items()},
        "looks": fleet.looks,
        "machines": machines_of(fleet),
    }


def facts(life: Life) -> dict[str, Any]:
    """List all fields of a life."""
    return {field.name: getattr(life, field.name) for field in dataclasses.fields(life)}


def case(seed: int) -> Case:
    """Draw a case that is short of memory and slots now and then."""
    draws, costs = random.Random(seed), random.Random(f"{seed}/costs")
    ahead = random.Random(f"{seed}/ahead")
    instances = draws.choice([1, 2, 3, 5])
    slow = draws.random() < 0.3
    config = SimulatorConfig(
        instances=instances,
        preset=draws.choice(["llama-7b-a10", ROOFLINE]) if slow else "toy",
        capacity_tokens=draws.choice([5_000, 9_000]) if slow else None,
        max_num_seqs=draws.choice([3, 16, 64]),
        token_budget=draws.choice([64, 512]),
        queue_limit=draws.choice([3, 100_000]),
        report_interval_s=draws.choice([0.1, 0.03, 0.0071]),
        message_latency_us=draws.choice([0, 300, 20_000]),
        copy_slowdown=draws.choice([0.0, 0.01, 0.3]),
        link_bytes_per_s=draws.choice([None, 2_000_000]),
    )
    if costs.random() < 0.4:
        config = dataclasses.replace(config, preset=MIXTURE if slow else MEASURED)
    config = dataclasses.replace(config, schedules_ahead=ahead.random() < 0.4)
    name = draws.choice(dispatch_policies.names())
    params = {"late_binding": draws.random() < 0.7} if name == "freeness" else {}
    scheduler = SchedulerConfig(
        classes=CLASSES,
        dispatch=PolicySpec(name, params),
        migration=draws.random() < 0.8,
    )
    migration = MigrationConfig(
        max_stages=draws.choice([0, 2, 8]), slack_blocks=draws.choice([0, 2]), cooldown_s=0.3
    )
    rate = draws.choice([0.6, 1.0, 1.6]) * instances * (1.5 if slow else 40)
    outputs = draws.choice([(1, 4), (1, 300), (200, 400)])
    requests = [
        dataclasses.replace(one, class_name=draws.choice(["high", "normal", "normal"]))
        for one in workload(draws.randint(20, 150), rate, seed, (1, 1_200), outputs)
    ]
    end_s = requests[-1].arrival_s
    outages = [
        Outage(draws.choice(config.names()), draws.choice([end_s / 2, 0.5]), end_s / 4)
        for _ in range(draws.choice([0, 0, 1, 3]))
    ]
    drawn = Case(config, scheduler, migration, requests, outages, seed)
    return with_prefixes(scaled(speculating(drawn)))


def speculating(drawn: Case) -> Case:
    """Have some of the cases guess tokens ahead, and some of their requests fill all memory."""
    draws = random.Random(f"{drawn.seed}/speculation")
    if draws.random() < 0.6:
        return drawn
    draft_tokens = draws.randint(1, 4)
    config = dataclasses.replace(
        drawn.config,
        draft_tokens=draft_tokens,
        acceptance=draws.choice([0.0, 0.3, 0.8, 1.0]),
        draft_us=draws.choice([0, 70, 2_000]),
        token_budget=max(
            drawn.config.token_budget or 0,
            (drawn.config.max_num_seqs or 0) * (1 + draft_tokens),
        ),
    )
    most = config.shape(len(CLASSES)).limits.usable_tokens
    requests = [
        dataclasses.replace(one, prompt_tokens=most - one.output_tokens)
        if draws.random() < 0.03
        else one
        for one in drawn.requests
    ]
    return dataclasses.replace(drawn, config=config, requests=requests)


def scaled(drawn: Case) -> Case:
    """Have some of the fleets grow and shrink, at times that matter to their workload."""
    draws = random.Random(f"{drawn.seed}/scaling")
    if draws.random() >= 0.5:
        return drawn
    instances, end_s = drawn.config.instances + draws.choice([0, 2]), drawn.requests[-1].arrival_s
    too_large, too_small = (-2e9, -1e9), (1e8, 2e8)  # it always is
    low, high = draws.choice([(30, 60), (100, 101), (200, 900), too_large, too_large, too_small])
    scaling = ScalingConfig(
        max_instances=instances + draws.choice([1, 2, 4]),
        min_instances=draws.choice([1, 1, instances]),
        low_steps=low,
        high_steps=high,
        window_s=draws.choice([0.0, end_s / 20]),
        cooldown_s=draws.choice([0.0, end_s / 20]),
    )
    start_delay_s = draws.choice([0.0, 0.05, end_s / 10])
    rebalance = RebalanceConfig(interval_s=draws.choice([0.25, end_s / 40, end_s / 200]))
    outages = [
        dataclasses.replace(one, down_s=draws.choice([one.down_s, None])) for one in drawn.outages
    ]
    config = dataclasses.replace(
        drawn.config, instances=instances, scaling=scaling, start_delay_s=start_delay_s
    )
    return dataclasses.replace(
        drawn,
        outages=outages,
        config=config,
        scheduler=dataclasses.replace(drawn.scheduler, rebalance=rebalance),
    )


def with_prefixes(drawn: Case) -> Case:
    """Have prompts of half of the cases begin alike; memory is soon needed for something else."""
    draws = random.Random(f"{drawn.seed}/prefixes")
    if draws.random() < 0.5:
        return drawn
    size = draws.choice([8, 16, 16, 24, 64, 512])
    families, pieces = draws.choice([1, 3, 10]), 1_200 // size + 1
    requests = []
    for one in drawn.requests:
        family, known = draws.randrange(families), draws.randint(0, pieces)
        ids = [family * pieces + number for number in range(known)]
        ids += [1_000_000 + one.index * pieces + number for number in range(draws.randint(0, 9))]
        told = draws.random() < 0.9
        blocks = PromptBlocks.of(size, ids) if told else None
        requests.append(dataclasses.replace(one, prompt_blocks=blocks))
    capacity_tokens = draws.choice([drawn.config.capacity_tokens, 1_800, 3_000, 6_000])
    config = dataclasses.replace(drawn.config, prefix_caching=True, capacity_tokens=capacity_tokens)
    if config.preset != "toy":
        requests = requests[:50]  # they would take too long to walk
    return dataclasses.replace(drawn, config=config, requests=requests)
