"""One run of the paper's experiments: its workload, its simulation, its figures."""

from collections.abc import Sequence

import numpy as np

from llumnix.config import Config
from llumnix.workloads import load_workload
from paper_parts.plan import BASE, PRIORITY_SHARE, Run, config_of
from policies.types import FleetSnapshot, FloatColumn
from simulator.events import NS_PER_S, Priority
from simulator.fleet.life import Life
from simulator.kernel.fleet import FastFleet
from simulator.streams import stream
from simulator.workload.arrivals import renewal_arrivals
from simulator.workload.request import TraceRequest

# Table 1 of the paper: probabilities and lengths. The ends are ours, chosen to reproduce the means
# in the table (306 and 500 tokens).
_AT = (0.0, 0.5, 0.8, 0.95, 0.99, 1.0)
_SHAREGPT_IN = (2, 74, 348, 1484, 3388, 3600)
_LOOK_NS = 2 * NS_PER_S
_SHAREGPT_OUT = (1, 487, 781, 988, 1234, 1600)


def measure(run: Run) -> dict[str, float]:
    """Simulate it and compute its figures; seconds and shares."""
    requests, urgent = workload(run)
    fleet = WatchedFleet(config_of(run), run.seed)
    lives = fleet.run(requests)
    figures = latencies(lives)
    if run.part == "priorities":
        for name, wanted in (("high", True), ("normal", False)):
            part = [life for life, high in zip(lives, urgent, strict=True) if high is wanted]
            figures |= {f"{name} {what}": value for what, value in latencies(part).items()}
    arriving_s = requests[-1].arrival_s
    shares = [share for at_s, share in fleet.fragmented if at_s <= arriving_s]
    figures["fragmented"] = float(np.mean(shares)) if shares else 0.0
    figures["migrations"] = sum(len(life.moves) for life in lives) / len(lives)
    figures["lasted"] = fleet.events.now_ns / NS_PER_S / arriving_s
    return figures


def workload(run: Run) -> tuple[list[TraceRequest], list[bool]]:
    """Draw its requests, and mark the urgent ones; a base run does not tell the fleet."""
    if run.trace == "ShareGPT-like":
        requests = sharegpt_like(run)
        return requests, [False] * len(requests)
    word = f"power-law:{run.trace},cv={run.cv:g}"
    share = PRIORITY_SHARE if run.part == "priorities" else 0.0
    requests = load_workload(word, run.requests, run.rate, run.seed, share)
    urgent = [request.class_name == "high" for request in requests]
    if run.policy == BASE:
        requests = load_workload(word, run.requests, run.rate, run.seed)
    return requests, urgent


def sharegpt_like(run: Run) -> list[TraceRequest]:
    """Draw lengths with the quantiles of the paper's table; prompt and output independently.

    Between its quantiles prompts are interpolated on a logarithmic scale and outputs on a linear
    one, which gives the means of the table too. Arrivals are Poisson.
    """

    def draws(name: str) -> FloatColumn:
        return stream(run.seed, f"sharegpt-like/{name}").random(run.requests)

    prompts = np.exp(np.interp(draws("prompts"), _AT, np.log(_SHAREGPT_IN)))
    outputs = np.interp(draws("outputs"), _AT, _SHAREGPT_OUT)
    arrivals_s = renewal_arrivals(
        run.rate, run.cv, run.requests, stream(run.seed, "sharegpt-like/arrivals")
    )
    rows = zip(arrivals_s.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
    return [
        TraceRequest(index, round(at_s, 6), max(1, round(prompt)), max(1, round(output)))
        for index, (at_s, prompt, output) in enumerate(rows)
    ]


def latencies(lives: Sequence[Life]) -> dict[str, float]:
    """Summarise latencies in seconds, mean and P99; the cost of preemption, over all requests."""
    done = [life for life in lives if life.finished]
    columns = {
        "ttft": [life.first_token_ns - life.arrived_ns for life in done],
        "tpot": [_per_token_ns(life) for life in done if life.tokens > 1],
        "e2e": [life.last_token_ns - life.arrived_ns for life in done],
        "loss": [life.preemption_loss_ns for life in done],
    }
    figures: dict[str, float] = {}
    for name, values in columns.items():
        seconds = np.array(values, dtype=np.float64) / NS_PER_S
        figures[f"{name} mean"] = float(seconds.mean()) if len(seconds) else 0.0
        figures[f"{name} p99"] = float(np.quantile(seconds, 0.99)) if len(seconds) else 0.0
    figures["preempted"] = float(np.mean([life.preemptions > 0 for life in lives]))
    figures["unserved"] = 1 - len(done) / len(lives)
    return figures


def _per_token_ns(life: Life) -> float:
    return (life.last_token_ns - life.first_token_ns) / (life.tokens - 1)


class WatchedFleet(FastFleet):
    """Records every two seconds how much of the fleet's memory is fragmented: (seconds, share)."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config.simulator, config.scheduler, config.migration, seed)
        self.fragmented: list[tuple[float, float]] = []
        self._look_later()

    def _look_later(self) -> None:
        self.events.after(_LOOK_NS, Priority.DECISION, self._look)

    def _look(self) -> None:
        fleet = self.snapshot()
        share = fragmented_share(fleet, self.door.next_tokens(len(fleet.ids)))
        self.fragmented.append((self.events.now_s, share))
        self._look_later()


def fragmented_share(fleet: FleetSnapshot, held_tokens: Sequence[int]) -> float:
    """The share of the fleet's memory that is free and requested, yet unusable.

    Requested by requests at the head of a line that their own instance has no room for, or held at
    the frontend (at most as many as there are instances). Counted, the smallest first, are those
    that would fit if all free memory of the fleet were in one place.
    """
    free = fleet.capacity_tokens - fleet.physical_tokens - fleet.reserved_tokens
    heads = fleet.head_demand_tokens
    asked = [*heads[(heads > 0) & (heads > free)].tolist(), *held_tokens]
    demand = np.sort(np.array(asked, dtype=np.int64))[: len(fleet.ids)].cumsum()
    fits = demand[demand <= free.sum()]
    return float(fits[-1] / fleet.capacity_tokens.sum()) if len(fits) else 0.0
