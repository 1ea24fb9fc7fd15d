"""Part of simulator_accuracy.py: an emulated fleet's latencies, measured and simulated, by load.

Means and tails are taken over the requests of all seeds; beside each error stands the mean of the
seeds' own errors and its 95 % interval. A fleet under load is chaotic: which requests wait, and
whether a move relieves them, depends on milliseconds, and the tail of one run is one draw of many.
So each workload is simulated several times, its arrivals a few milliseconds apart, and the
prediction covers all of these; likewise the emulated fleet serves each `--repeats` times, and the
measurement covers all of those. HTTP and the frontend take no time in a simulation, and at k times
real speed each of their milliseconds counts as k in the emulated fleet; their share for single
requests on an idle fleet is measured first.
"""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import Bar
from llumnix.config import Config
from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.model.vocabulary import decode
from llumnix.loadgen import OutputChecker, PromptSource
from llumnix.planning.estimate import estimate
from llumnix.planning.outcome import SimulatedRecord, result_of
from llumnix.results.result import RunResult
from llumnix.testbed.trial import FleetShape, PolicyChoice, run_trial
from llumnix.workloads import load_workload
from simulator.costs.capacity import fluid_rate_per_s
from simulator.costs.presets import preset
from simulator.fleets import fleet_for
from simulator.streams import stream
from simulator.workload.request import TraceRequest

PRESET = "llama-7b-a10"
LOADS = (0.5, 0.7, 0.85)
SHOWN: Mapping[str, Callable[["Run"], float]] = {
    "TTFT p50": lambda run: float(np.quantile(run.ttft_s, 0.5)),
    "TTFT p99": lambda run: float(np.quantile(run.ttft_s, 0.99)),
    "TPOT mean": lambda run: float(np.mean(run.tpot_s)),
    "E2E mean": lambda run: float(np.mean(run.e2e_s)),
    "E2E p99": lambda run: float(np.quantile(run.e2e_s, 0.99)),
}
BOUNDS = {"E2E mean": 0.03, "TTFT p99": 0.10}
SETTINGS = ("requests", "seeds", "repeats", "speed", "policy")
SIMULATIONS = 24
JITTER_S = 0.01
PROBES = 12
PROBE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Run:
    """The latencies of all requests of one run, or of several, in fleet seconds."""

    ttft_s: list[float]
    tpot_s: list[float]
    e2e_s: list[float]
    migrations: float
    preemptions: float
    gap_ms_p50: float | None

    @classmethod
    def of(cls, records: Sequence[Any], result: RunResult) -> "Run":
        """Read them from the records of a run, simulated or not."""

        def column(name: str) -> list[float]:
            return [value for one in records if (value := getattr(one, name)) is not None]

        return cls(
            column("ttft_s"),
            column("tpot_s"),
            column("e2e_s"),
            result.migrations_committed or 0,
            result.preemptions or 0,
            result.gap_ms.p50,
        )


def pooled(runs: Sequence[Run]) -> Run:
    """All requests of several runs; counts are those of one, on average."""
    gaps = [run.gap_ms_p50 for run in runs if run.gap_ms_p50 is not None]
    return Run(
        [one for run in runs for one in run.ttft_s],
        [one for run in runs for one in run.tpot_s],
        [one for run in runs for one in run.e2e_s],
        float(np.mean([run.migrations for run in runs])),
        float(np.mean([run.preemptions for run in runs])),
        float(np.mean(gaps)) if gaps else None,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this part."""
    parser.add_argument("--requests", type=int, default=600, help="requests per seed and load")
    parser.add_argument("--seeds", type=int, default=3, help="workloads per load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1, help="emulated runs per workload")
    parser.add_argument("--loads", type=float, nargs="+", default=list(LOADS))
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--speed", type=float, default=2.0, help="speed of the emulation")
    parser.add_argument("--policy", default="freeness", help="as for `llumnix simulate`")
    parser.add_argument("--trace", default="azure-conv-2023")


def at_load(args: argparse.Namespace, load: float, seed: int) -> list[TraceRequest]:
    """Draw the workload at a share of the fluid bound, without requests that fit nowhere."""
    gpu = preset(PRESET)
    drawn = load_workload(args.trace, args.requests, None, seed)
    fits = [one for one in drawn if one.prompt_tokens + one.output_tokens <= gpu.max_model_len]
    bound = fluid_rate_per_s(fits, gpu.costs, gpu.capacity_tokens, args.instances)
    drawn = load_workload(args.trace, args.requests, load * bound, seed)
    return [one for one in drawn if one.prompt_tokens + one.output_tokens <= gpu.max_model_len]


def measured(args: argparse.Namespace, requests: Sequence[TraceRequest], seed: int) -> Run | None:
    """Serve them on an emulated fleet; None if its engines were late twice."""
    shape = FleetShape(args.instances, args.speed, PRESET)
    checker = OutputChecker(PromptSource(seed), expected_output, decode, processes=1)
    policy = PolicyChoice.parse(args.policy)
    for _ in range(2):
        outcome = asyncio.run(run_trial(policy, shape, requests, checker, seed))
        if outcome.result.valid:
            return Run.of(outcome.records, outcome.result)
        reasons = "; ".join(outcome.result.invalid_reasons)
        print(f"not valid: {reasons}", file=sys.stderr, flush=True)
    return None


def predicted(args: argparse.Namespace, requests: Sequence[TraceRequest], seed: int) -> Run:
    """Simulate them repeatedly; return all requests of all simulations."""
    runs = []
    for number in range(SIMULATIONS):
        late_s = stream(number, "accuracy/jitter").uniform(0, JITTER_S, len(requests))
        jittered = [
            dataclasses.replace(one, arrival_s=one.arrival_s + float(more_s))
            for one, more_s in zip(requests, late_s, strict=True)
        ]
        runs.append(simulated_once(args, jittered, seed))
    return pooled(runs)


def simulated_once(args: argparse.Namespace, requests: Sequence[TraceRequest], seed: int) -> Run:
    """Simulate them once."""
    config = Config()
    policy = PolicyChoice.parse(args.policy)
    scheduler = dataclasses.replace(
        config.scheduler,
        dispatch=dataclasses.replace(config.scheduler.dispatch, name=policy.dispatch),
        migration=policy.migration,
    )
    simulator = dataclasses.replace(config.simulator, instances=args.instances, preset=PRESET)
    fleet = fleet_for(simulator, scheduler, config.migration, seed, requests=len(requests))
    lives = fleet.run(requests)
    result = result_of(fleet, lives, policy=policy.dispatch, seed=seed)
    return Run.of([SimulatedRecord(life) for life in lives], result)


def software_s(args: argparse.Namespace) -> float | None:
    """Measure what HTTP and the frontend add to the TTFT of single requests, in fleet seconds."""
    alone = [TraceRequest(n, 0.5 * args.speed * (n + 1), PROBE_TOKENS, 2) for n in range(PROBES)]
    found = measured(args, alone, args.seed)
    model_s = preset(PRESET).costs.step_ns([(0, PROBE_TOKENS)], 0, 0) / 1e9
    return None if found is None else float(np.median(found.ttft_s)) - model_s


def compare(real: Sequence[Run], simulated: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """Measured, predicted, and the error, over all requests; and over seeds with its interval."""
    rows: dict[str, dict[str, float | None]] = {}
    for name, take in SHOWN.items():
        was, said = take(pooled(real)), take(pooled(simulated))
        seeds = estimate(
            [take(said) / take(was) - 1 for was, said in zip(real, simulated, strict=True)]
        )
        rows[name] = {
            "measured": was,
            "predicted": said,
            "error": said / was - 1,
            "seeds_error": seeds.mean,
            "seeds_half_width": seeds.half_width,
        }
    return rows


def say(load: float, rows: Mapping[str, Mapping[str, float | None]]) -> None:
    for name, row in rows.items():
        text = f"{row['measured']:9.4f} {row['predicted']:9.4f} {row['error']:+7.1%}"
        seeds = f"by seed {row['seeds_error']:+7.1%} ± {row['seeds_half_width'] or 0:.1%}"
        print(f"load {load:<5g}{name:<12}{text}  {seeds}", file=sys.stderr, flush=True)


def measure(args: argparse.Namespace) -> tuple[list[Bar], dict[str, Any]]:
    """Measure and predict every load and seed; return the bars, and all figures."""
    bars: list[Bar] = []
    figures: dict[str, Any] = {
        **{
            name: getattr(args, name)
            for name in ("requests", "seeds", "repeats", "speed", "policy")
        },
        "simulations": SIMULATIONS,
        "software_s": software_s(args),
    }
    print(f"HTTP and frontend: {figures['software_s']} fleet s", file=sys.stderr, flush=True)
    for load in args.loads:
        real, simulated = [], []
        for seed in range(args.seed, args.seed + args.seeds):
            requests = at_load(args, load, seed)
            runs = [measured(args, requests, seed) for _ in range(args.repeats)]
            valid = [run for run in runs if run is not None]
            if valid:
                print(f"TTFT p99 by run: {_tails(valid)} s", file=sys.stderr, flush=True)
                real.append(pooled(valid))
                simulated.append(predicted(args, requests, seed))
                say(load, compare(real[-1:], simulated[-1:]))
        bars += [_bar(load, name, real, simulated) for name in BOUNDS]
        figures[str(load)] = _figures(real, simulated)
    return bars, figures


def _tails(runs: Sequence[Run]) -> list[float]:
    """Return how far one run's tail is from another's of the same workload."""
    return [round(SHOWN["TTFT p99"](run), 3) for run in runs]


def _bar(load: float, name: str, real: Sequence[Run], simulated: Sequence[Run]) -> Bar:
    text = f"emulated fleet at load {load}: {name}"
    if not real:
        return Bar(text, None, "a valid run", ok=False)
    error = compare(real, simulated)[name]["error"]
    assert error is not None
    return Bar(text, round(error, 4), f"within {BOUNDS[name]:.0%}", abs(error) <= BOUNDS[name])


def _figures(real: Sequence[Run], simulated: Sequence[Run]) -> dict[str, Any]:
    if not real:
        return {"seeds_valid": 0}
    was, said = pooled(real), pooled(simulated)
    rows = compare(real, simulated)
    counts = {
        name: [getattr(was, name), getattr(said, name)]
        for name in ("migrations", "preemptions", "gap_ms_p50")
    }
    return {"seeds_valid": len(real), **rows, **counts}
