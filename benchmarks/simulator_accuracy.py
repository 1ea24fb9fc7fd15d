"""Is the simulator right? Its predictions beside what an emulated fleet really did, by load.

The same requests go through a real frontend to emulated instances (real HTTP, real scheduler, real
migrations, on a real clock) and through `llumnix simulate`, at several shares of the fluid bound.
Runs whose emulated engines fell behind their clock are no measurement; they are repeated once.
"""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import Bar, finish
from llumnix.config import Config, load_config
from llumnix.emulator.answer import expected_output
from llumnix.emulator.vocabulary import decode
from llumnix.loadgen import OutputChecker, PromptSource
from llumnix.results import RunResult
from llumnix.simulated import result_of
from llumnix.trial import FleetShape, PolicyChoice, run_trial
from llumnix.workload import load_workload
from simulator.capacity import fluid_rate_per_s
from simulator.cluster.fleet import SimulatedFleet
from simulator.costs import preset
from simulator.workload.request import TraceRequest

PRESET = "llama-7b-a10"
LOADS = (0.5, 0.7, 0.85)
SHOWN: Mapping[str, Callable[[RunResult], float | None]] = {
    "TTFT p50": lambda result: result.ttft_s.p50,
    "TTFT p99": lambda result: result.ttft_s.p99,
    "TPOT mean": lambda result: result.tpot_s.mean,
    "E2E mean": lambda result: result.e2e_s.mean,
    "E2E p99": lambda result: result.e2e_s.p99,
}
BOUNDS = {"E2E mean": 0.03, "TTFT p99": 0.10}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one load, few requests, < 60 s")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--speed", type=float, default=4.0, help="of the emulated fleet")
    parser.add_argument("--policy", default="freeness", help="as for `llumnix simulate`")
    parser.add_argument("--trace", default="azure-conv-2023")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.quick:
        args.requests = 120
    return args


def at_load(args: argparse.Namespace, load: float) -> list[TraceRequest]:
    """Draw the workload at a share of the fluid bound, without what no instance can hold."""
    gpu = preset(PRESET)
    drawn = load_workload(args.trace, args.requests, None, args.seed)
    fits = [one for one in drawn if one.prompt_tokens + one.output_tokens <= gpu.max_model_len]
    bound = fluid_rate_per_s(fits, gpu.costs, gpu.capacity_tokens, args.instances)
    drawn = load_workload(args.trace, args.requests, load * bound, args.seed)
    return [one for one in drawn if one.prompt_tokens + one.output_tokens <= gpu.max_model_len]


def measured(args: argparse.Namespace, requests: Sequence[TraceRequest]) -> RunResult:
    """Have an emulated fleet serve them."""
    shape = FleetShape(args.instances, args.speed, PRESET)
    checker = OutputChecker(PromptSource(args.seed), expected_output, decode, processes=2)
    policy = PolicyChoice.parse(args.policy)
    for _ in range(2):
        result = asyncio.run(run_trial(policy, shape, requests, checker, args.seed)).result
        if result.valid:
            break
        print(f"not valid: {'; '.join(result.invalid_reasons)}", file=sys.stderr, flush=True)
    return result


def predicted(args: argparse.Namespace, requests: Sequence[TraceRequest]) -> RunResult:
    """Simulate them."""
    config: Config = load_config(None)
    policy = PolicyChoice.parse(args.policy)
    scheduler = dataclasses.replace(
        config.scheduler,
        dispatch=dataclasses.replace(config.scheduler.dispatch, name=policy.dispatch),
        migration=policy.migration,
    )
    simulator = dataclasses.replace(config.simulator, instances=args.instances, preset=PRESET)
    fleet = SimulatedFleet(simulator, scheduler, config.migration, seed=args.seed)
    lives = fleet.run(requests)
    return result_of(fleet, lives, policy=policy.dispatch, seed=args.seed)


def compare(real: RunResult, simulated: RunResult) -> dict[str, dict[str, float]]:
    """Set both side by side: measured, predicted, and by how much the latter is off."""
    rows = {}
    for name, take in SHOWN.items():
        was, said = float(take(real) or 0.0), float(take(simulated) or 0.0)
        rows[name] = {"measured": was, "predicted": said, "error": said / was - 1 if was else 0.0}
    return rows


def say(load: float, rows: dict[str, dict[str, float]], real: RunResult, said: RunResult) -> None:
    for name, row in rows.items():
        text = f"{row['measured']:9.4f} {row['predicted']:9.4f} {row['error']:+7.1%}"
        print(f"load {load:<5g}{name:<12}{text}", file=sys.stderr)
    for name in ("migrations_committed", "preemptions"):
        text = f"{getattr(real, name):>9} {getattr(said, name):>9}"
        print(f"load {load:<5g}{name:<22}{text}", file=sys.stderr)
    gaps = f"{real.gap_ms.p50 or 0:9.1f} {said.gap_ms.p50 or 0:9.1f}"
    print(f"load {load:<5g}{'gap at a move p50, ms':<22}{gaps}", file=sys.stderr, flush=True)


def main() -> int:
    args = arguments()
    bars: list[Bar] = []
    figures: dict[str, Any] = {"requests": args.requests, "policy": args.policy}
    for load in LOADS[1:2] if args.quick else LOADS:
        requests = at_load(args, load)
        real, said = measured(args, requests), predicted(args, requests)
        rows = compare(real, said)
        say(load, rows, real, said)
        for name, bound in BOUNDS.items():
            error = rows[name]["error"]
            ok = real.valid and abs(error) <= bound
            bars.append(Bar(f"{name} at load {load}", round(error, 4), f"within {bound:.0%}", ok))
        figures[str(load)] = {
            **rows,
            "valid": real.valid,
            "migrations": [real.migrations_committed, said.migrations_committed],
            "preemptions": [real.preemptions, said.preemptions],
            "gap_ms_p50": [real.gap_ms.p50, said.gap_ms.p50],
        }
    return finish("simulator_accuracy", bars, figures)


if __name__ == "__main__":
    sys.exit(main())
