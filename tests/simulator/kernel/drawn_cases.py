"""Random cases with all features on, short of memory and slots now and then.

One recipe, two sources of chance: `cases` lets Hypothesis draw, so that what fails shrinks to a
small case that can be kept as it is printed; `case_of` draws from a seed, always the same.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from migration.config import MigrationConfig
from policies.dispatch import dispatch_policies
from policies.moves.config import RebalanceConfig
from policies.registry import PolicySpec
from policies.scaling import ScalingConfig
from policies.scheduler import SchedulerConfig
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.workload.request import PromptBlocks, TraceRequest
from tests.simulator.kernel.fleet_cases import CLASSES, MEASURED, MIXTURE, ROOFLINE, Case

T = TypeVar("T")
MOST_REQUESTS = 150


class Draws(Protocol):
    """Chance. What comes first, is lowest or does not happen is what failures shrink to."""

    def choice(self, options: Sequence[T]) -> T:
        """Draw one."""

    def number(self, low: int, high: int) -> int:
        """Draw a number, both ends included."""

    def happens(self, percent: int) -> bool:
        """Whether something does that happens so often."""

    def several(self, one: "Callable[[Draws], T]", low: int, high: int) -> list[T]:
        """Draw so many; a failure may shrink to fewer than `low`, but one."""


class Seeded:
    """Draws that a seed determines."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choice(self, options: Sequence[T]) -> T:
        """See Draws."""
        return self._random.choice(options)

    def number(self, low: int, high: int) -> int:
        """See Draws."""
        return self._random.randint(low, high)

    def happens(self, percent: int) -> bool:
        """See Draws."""
        return self._random.randrange(100) < percent

    def several(self, one: Callable[[Draws], T], low: int, high: int) -> list[T]:
        """See Draws."""
        return [one(self) for _ in range(self._random.randint(low, high))]


class Shrinking:
    """Draws of Hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def choice(self, options: Sequence[T]) -> T:
        """See Draws."""
        return self._draw(st.sampled_from(options))

    def number(self, low: int, high: int) -> int:
        """See Draws."""
        return self._draw(st.integers(low, high))

    def happens(self, percent: int) -> bool:
        """See Draws."""
        return self._draw(st.integers(0, 99)) >= 100 - percent

    def several(self, one: Callable[[Draws], T], low: int, high: int) -> list[T]:
        """See Draws: lists are long by chance, and lose any of their elements when they shrink."""
        each = st.composite(lambda draw: one(Shrinking(draw)))
        least = self._draw(st.sampled_from([1, low, (low + high) // 2]))
        return self._draw(st.lists(each(), min_size=least, max_size=high))


def case_of(seed: int) -> Case:
    """Draw the case of a seed."""
    return drawn_case(Seeded(seed))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw cases that shrink."""
    return drawn_case(Shrinking(draw))


def drawn_case(draws: Draws) -> Case:
    """Draw a case: the fleet first, then what it serves, then what happens meanwhile."""
    slow = draws.happens(30)  # steps of tens of milliseconds, not of one
    config = _drawn_config(draws, slow=slow)
    scheduler = _drawn_scheduler(draws)
    migration = MigrationConfig(
        max_stages=draws.choice([0, 2, 8]), slack_blocks=draws.choice([0, 2]), cooldown_s=0.3
    )
    requests = _drawn_requests(draws, config, slow=slow)
    outages = _drawn_outages(draws, config, requests[-1].arrival_s)
    drawn = Case(config, scheduler, migration, requests, outages, draws.number(0, 10_000))
    if draws.happens(50):
        drawn = _scaled(draws, drawn)
    if draws.happens(50):
        drawn = _with_prefixes(draws, drawn)
    if draws.happens(40):
        drawn = _speculating(draws, drawn)
    return drawn


def _drawn_config(draws: Draws, *, slow: bool) -> SimulatorConfig:
    fast_presets, slow_presets = ["toy", "toy", MEASURED], ["llama-7b-a10", ROOFLINE, MIXTURE]
    return SimulatorConfig(
        instances=draws.choice([1, 2, 3, 5]),
        preset=draws.choice(slow_presets if slow else fast_presets),
        capacity_tokens=draws.choice([5_000, 9_000]) if slow else None,
        max_num_seqs=draws.choice([3, 16, 64]),
        token_budget=draws.choice([64, 512]),
        queue_limit=draws.choice([100_000, 3]),
        report_interval_s=draws.choice([0.1, 0.03, 0.0071]),
        message_latency_us=draws.choice([0, 300, 20_000]),
        copy_slowdown=draws.choice([0.0, 0.01, 0.3]),
        link_bytes_per_s=draws.choice([None, 2_000_000]),
        schedules_ahead=draws.happens(40),
    )


def _drawn_scheduler(draws: Draws) -> SchedulerConfig:
    name = draws.choice(dispatch_policies.names())
    params = {"late_binding": draws.happens(70)} if name == "freeness" else {}
    return SchedulerConfig(
        classes=CLASSES, dispatch=PolicySpec(name, params), migration=draws.happens(80)
    )


def _drawn_requests(draws: Draws, config: SimulatorConfig, *, slow: bool) -> list[TraceRequest]:
    rate = draws.choice([0.6, 1.0, 1.6]) * config.instances * (1.5 if slow else 40)
    shortest, longest = draws.choice([(1, 4), (1, 300), (200, 400)])
    mean_gap_us = round(1e6 / rate)

    def drawn(draws: Draws) -> tuple[int, int, int, str]:
        gap_us = 0 if draws.happens(10) else draws.number(0, 2 * mean_gap_us)
        prompt_tokens = draws.number(1, 1_200)
        class_name = draws.choice(["normal", "normal", "high"])
        return gap_us, prompt_tokens, draws.number(shortest, longest), class_name

    requests: list[TraceRequest] = []
    arrival_us = 0
    for gap_us, prompt_tokens, output_tokens, name in draws.several(drawn, 20, MOST_REQUESTS):
        arrival_us += gap_us
        requests.append(
            TraceRequest(len(requests), arrival_us / 1e6, prompt_tokens, output_tokens, name)
        )
    return requests


def _drawn_outages(draws: Draws, config: SimulatorConfig, end_s: float) -> list[Outage]:
    return [
        Outage(draws.choice(config.names()), draws.choice([end_s / 2, 0.5]), end_s / 4)
        for _ in range(draws.choice([0, 0, 1, 3]))
    ]


def _scaled(draws: Draws, drawn: Case) -> Case:
    """Have the fleet grow and shrink, at times that matter to its workload."""
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
    interval_s = draws.choice([0.25, end_s / 40, end_s / 200])
    outages = [replace(one, down_s=draws.choice([one.down_s, None])) for one in drawn.outages]
    return replace(
        drawn,
        outages=outages,
        config=replace(
            drawn.config, instances=instances, scaling=scaling, start_delay_s=start_delay_s
        ),
        scheduler=replace(
            drawn.scheduler, rebalance=RebalanceConfig(interval_s=max(interval_s, 0.001))
        ),
    )


def _with_prefixes(draws: Draws, drawn: Case) -> Case:
    """Have prompts begin alike; memory is soon needed for something else."""
    size = draws.choice([16, 8, 24, 64, 512])
    families, pieces = draws.choice([1, 3, 10]), 1_200 // size + 1
    requests = []
    for one in drawn.requests:
        family, known = draws.number(0, families - 1), draws.number(0, pieces)
        ids = [family * pieces + number for number in range(known)]
        own = range(draws.number(0, 9))
        ids += [1_000_000 + one.index * pieces + number for number in own]
        blocks = None if draws.happens(10) else PromptBlocks.of(size, ids)
        requests.append(replace(one, prompt_blocks=blocks))
    if drawn.config.preset != "toy":
        requests = requests[:50]  # they would take too long to walk
    capacity_tokens = draws.choice([drawn.config.capacity_tokens, 6_000, 3_000, 1_800])
    told = any(one.prompt_blocks for one in requests)  # a cache where nothing is told is an error
    config = replace(drawn.config, prefix_caching=told, capacity_tokens=capacity_tokens)
    return replace(drawn, config=config, requests=requests)


def _speculating(draws: Draws, drawn: Case) -> Case:
    """Have tokens guessed ahead, and some of the requests fill all memory."""
    draft_tokens = draws.number(1, 4)
    budget, batch = drawn.config.token_budget or 0, drawn.config.max_num_seqs or 0
    config = replace(
        drawn.config,
        draft_tokens=draft_tokens,
        acceptance=draws.choice([0.0, 0.3, 0.8, 1.0]),
        draft_us=draws.choice([0, 70, 2_000]),
        token_budget=max(budget, batch * (1 + draft_tokens)),
    )
    most = config.shape(len(CLASSES)).limits.usable_tokens
    requests = [
        replace(one, prompt_tokens=most - one.output_tokens) if draws.happens(3) else one
        for one in drawn.requests
    ]
    return replace(drawn, config=config, requests=requests)
