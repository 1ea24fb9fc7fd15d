"""The runs that compare the simulator with the Llumnix paper: traces, rates, policies, seeds.

The paper's settings are from its artifact: lengths, rates and thresholds per trace, a batch of 256
requests, 12,800 tokens per step, and the speed at which its blocking copy really moved KV.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llumnix.config import Config
from policies.dispatch import dispatch_policies
from policies.moves.config import RebalanceConfig
from policies.registry import NoParams, PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import PriorityClass
from policies.usage import freeness
from policies.view import DispatchView, Proposal
from simulator.costs.presets import PRESETS, LinearCosts, preset
from simulator.fleet.options import SimulatorConfig

PRESET = "llama-7b-a10"
MEASURED_LINK_BYTES_PER_S = 2_550_000_000
"""8,192 tokens of 512 KiB in the 1,682 ms of the paper's blocking copy (figure 10); the line has
8 GB/s."""
PAPER_STEP_TOKENS = 12_800
PAPER_BATCH = 256
PAPER_CLASSES = (PriorityClass("high", headroom_tokens=12_016), PriorityClass("normal"))
"""The paper's headroom for LLaMA-7B on an A10 (13,616 tokens): all but the 1,600 tokens up to which
a batch still decodes as fast as an unloaded one."""
PAPER_COPY_SLOWDOWN = 0.02
"""The figure shows decode steps 1.5 to 3.2 % longer while a request is moved."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A workload of the paper and the rates it is run at, in requests/s.

    `cited` is the rate at which figures of the paper are known to us, or the middle of its grid.
    Most of these are far below the knee of the engine simulated, so there are `others` too, from
    just below that knee to past it. `threshold_steps` is the artifact's migration threshold: 3
    blocks of 16 tokens a request, 10 for two traces.
    """

    name: str
    cited: float
    others: tuple[float, ...]
    threshold_steps: float = 48.0

    @property
    def rates(self) -> tuple[float, ...]:
        """From the lowest to the highest."""
        return tuple(sorted((self.cited, *self.others)))

    @property
    def middle(self) -> float:
        """A rate at our knee."""
        return self.others[1]


TRACES = (
    Trace("S-S", 36.0, (50.0, 57.0, 65.0)),
    Trace("M-M", 7.8, (9.0, 9.8, 10.5), 160.0),
    Trace("L-L", 3.0, (3.4, 3.6)),
    Trace("S-L", 4.2, (4.6, 4.9), 160.0),
    Trace("L-S", 18.0, (22.0, 25.0, 28.0)),
    Trace("ShareGPT-like", 7.5, (9.6, 10.4, 11.0)),
)
ROUND_ROBIN, LOAD_AWARE, LLUMNIX, OURS = "round-robin", "load-aware", "Llumnix", "late binding"
POLICIES = (ROUND_ROBIN, LOAD_AWARE, LLUMNIX, OURS)
PRIORITY_RATES = (26.0, 52.0)
"""The paper's, and one at which urgent requests wait as long without priorities as in the paper."""
PRIORITY_SHARE = 0.1
PRIORITY_CVS = (2.0, 4.0, 6.0, 8.0)
BASE = "Llumnix-base"
ORDER = "class order"
CONFINED = "four instances"
PRIORITY_POLICIES = (LLUMNIX, BASE, ORDER, CONFINED)
"""With headroom and the order of classes, without classes, with their order alone, and with urgent
requests on four instances only."""
URGENT_INSTANCES = 4
"""The artifact's code has `high_priority_instance_ids=[0,1,2,3]`."""


@dispatch_policies.register("freeness-confined", NoParams)
def confined(view: DispatchView, _: NoParams) -> Proposal:
    """Send to the freest instance; urgent requests, to the freest of the first four."""
    scores = freeness(view.snapshot, view.headroom_tokens, "whole")
    if view.request.class_index == 0:
        scores = np.where(np.arange(len(scores)) < URGENT_INSTANCES, scores, -np.inf)
    return Proposal(scores)


SLOWER = "llama-7b-a10 slower"
SLOWER_MS = 10
SLOWER_TRACES = ("S-S", "M-M", "L-L", "S-L")
_COSTS = preset(PRESET).costs
assert isinstance(_COSTS, LinearCosts)
PRESETS[SLOWER] = dataclasses.replace(
    preset(PRESET),
    name=SLOWER,
    costs=dataclasses.replace(_COSTS, overhead_ns=SLOWER_MS * 1_000_000),
)
"""The engine with every step longer by what an early vLLM's CPU work may well have taken."""
STILL = "Llumnix, no migration"


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation. `part` is `serving`, `slower`, `ablation` or `priorities`."""

    part: str
    trace: str
    rate: float
    cv: float
    policy: str
    seed: int
    requests: int

    @property
    def key(self) -> str:
        """Name it in a file of results."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def trace(name: str) -> Trace:
    """Look up a trace by its name."""
    return next(one for one in TRACES if one.name == name)


def plan(requests: int, seeds: int, *, quick: bool = False) -> list[Run]:
    """List all runs, seed by seed, so that an interruption leaves balanced results."""
    return [
        run
        for seed in range(1, seeds + 1)
        for part in (_serving, _priorities, _variants)
        for run in part(requests, seed, quick)
    ]


def _serving(requests: int, seed: int, quick: bool) -> Iterator[Run]:
    for each in TRACES[1:2] if quick else TRACES:
        for rate in each.rates:
            for policy in POLICIES:
                yield Run("serving", each.name, rate, 1.0, policy, seed, requests)


def _priorities(requests: int, seed: int, quick: bool) -> Iterator[Run]:
    for cv in PRIORITY_CVS[:1] if quick else PRIORITY_CVS:
        for rate in PRIORITY_RATES:
            for policy in PRIORITY_POLICIES:
                yield Run("priorities", "S-S", rate, cv, policy, seed, requests)


def _variants(requests: int, seed: int, quick: bool) -> Iterator[Run]:
    for each in TRACES[1:2] if quick else TRACES:
        if each.name in SLOWER_TRACES:
            for policy in (LOAD_AWARE, LLUMNIX):
                yield Run("slower", each.name, each.cited, 1.0, policy, seed, requests)
        yield Run("ablation", each.name, each.middle, 1.0, STILL, seed, requests)


def config_of(run: Run) -> Config:
    """Set up a fleet like the paper's: 16 engines, and the policy of the run."""
    fleet = fleet_config()
    if run.part == "slower":
        fleet = dataclasses.replace(fleet, preset=SLOWER)
    return Config(simulator=fleet, scheduler=_scheduler(run))


def fleet_config(
    instances: int = 16, link_bytes_per_s: int = MEASURED_LINK_BYTES_PER_S
) -> SimulatorConfig:
    """Describe LLaMA-7B on A10s as the paper ran them."""
    return SimulatorConfig(
        instances=instances,
        preset=PRESET,
        max_num_seqs=PAPER_BATCH,
        token_budget=PAPER_STEP_TOKENS,
        link_bytes_per_s=link_bytes_per_s,
        copy_slowdown=PAPER_COPY_SLOWDOWN,
    )


def _scheduler(run: Run) -> SchedulerConfig:
    if run.policy in (ROUND_ROBIN, LOAD_AWARE):
        return SchedulerConfig(PAPER_CLASSES, dispatch=PolicySpec(run.policy), migration=False)
    if run.policy == OURS:
        return SchedulerConfig(PAPER_CLASSES)
    steps = trace(run.trace).threshold_steps
    config = SchedulerConfig(
        PAPER_CLASSES,
        dispatch=PolicySpec("freeness", {"late_binding": False}),
        migration=run.policy != STILL,
        rebalance=RebalanceConfig(low_steps=steps, high_steps=steps, hysteresis_steps=0.0),
    )
    if run.policy == CONFINED:
        return dataclasses.replace(config, dispatch=PolicySpec("freeness-confined"))
    if run.policy == ORDER:
        classes = tuple(dataclasses.replace(one, headroom_tokens=0) for one in config.classes)
        config = dataclasses.replace(config, classes=classes)
    return config
