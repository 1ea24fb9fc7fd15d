"""Part of simulator_accuracy.py: one migration, simulated and measured, by context length.

Two instances of LLaMA-7B/A10 at real speed, their link shaped to the preset's 64 Gb/s. A stream of
each length is moved by hand some tokens after its prompt, in an emulated fleet and in a simulated
one: idle otherwise, and beside two other streams on each instance. In the simulation the order
comes at a random time, and each instance steps independently. Each length's result is a mean and
its 95 % interval.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
import numpy as np
from migration_downtime import BACKGROUND_STREAMS, BACKGROUND_TOKENS, BEFORE_TOKENS, Bench

from llumnix.config import Config
from llumnix.planning.estimate import estimate
from llumnix.processes.frontend_process import launched_frontend
from policies.registry import PolicySpec
from policies.types import Explanation, InstanceId, MigrateOrder, MigrateReason, RequestId
from simulator.events import NS_PER_S, Priority
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Life
from simulator.streams import stream
from simulator.workload.request import TraceRequest

PRESET = "llama-7b-a10"
TOKEN_BUDGET = 2048
CONTEXTS = (256, 512, 1024, 2048, 4096, 8192)
AFTER_TOKENS = 120
STEP_NS = 36_000_000
PREDICTIONS = 40
"""Simulations per length, each with another time of the order."""
SHOWN = ("stages", "downtime_ms", "usual_ms")

Sample = dict[str, float]


class MeasuredMoves(Bench):
    """Moves streams of an emulated fleet by hand, and keeps what the llumlets reported of each."""

    async def one(self, context: int, seed: int) -> Sample:
        """Move one; its figures by the names of SHOWN."""
        found = await self.moved(context, seed)
        news = await self._get("/llumnix/events?after=0")
        committed = [one for one in news["events"] if one["kind"] == "migration_committed"]
        return {
            "stages": float(committed[-1]["stages"]),
            "downtime_ms": found["downtime_ms"],
            "usual_ms": found["normal_ms"],
        }


async def measured(contexts: Sequence[int], samples: int) -> dict[str, dict[int, list[Sample]]]:
    """Move streams of every length, on idle and on busy instances."""
    settings = {
        "emulator.preset": PRESET,
        "emulator.token_budget": TOKEN_BUDGET,
        "migration.cooldown_s": 0,
    }
    flags = ["--port=0", "--emulate=2", "--speed=1", "--no-migration", "--policy=round-robin"]
    flags += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    found: dict[str, dict[int, list[Sample]]] = {"idle": {}, "busy": {}}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with (
        launched_frontend(flags) as url,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        bench = MeasuredMoves(session, url, b"")
        await bench.start()
        await bench.moved(contexts[0], 999)  # the first finds no links
        for state in found:
            if state == "busy":
                await bench.make_busy()
            for number in range(samples):
                for context in contexts:
                    sample = await bench.one(context, number)
                    found[state].setdefault(context, []).append(sample)
                    _say(f"measured {state}", context, sample)
        await bench.stop()
    return found


def predicted(context: int, number: int, *, busy: bool) -> Sample:
    """Simulate the move of one stream of this length."""
    config = Config()
    fleet = SimulatedFleet(
        replace(config.simulator, instances=2, preset=PRESET, token_budget=TOKEN_BUDGET),
        replace(config.scheduler, dispatch=PolicySpec("round-robin"), migration=False),
        replace(config.migration, cooldown_s=0),
    )
    draws = stream(number, "accuracy/moment")
    requests = _streams(context, draws, busy=busy)
    delay_ns = int(draws.integers(STEP_NS))

    def look(life: Life) -> None:
        if life.tokens < BEFORE_TOKENS:
            fleet.events.after(NS_PER_S // 1000, Priority.DECISION, partial(look, life))
        else:
            fleet.events.after(delay_ns, Priority.DECISION, partial(_order, fleet, life))

    moved_id = len(requests) - 1
    fleet.events.at(
        round(requests[-1].arrival_s * NS_PER_S) + 1,
        Priority.DECISION,
        lambda: look(next(one for one in fleet.lives.values() if one.request.index == moved_id)),
    )
    life = fleet.run(requests)[-1]
    (move,) = life.moves
    return {
        "stages": float(move.stages),
        "downtime_ms": move.downtime_ns / 1e6,
        "usual_ms": move.usual_interval_ns / 1e6,
    }


def _streams(context: int, draws: np.random.Generator, *, busy: bool) -> list[TraceRequest]:
    """The streams beside it, if any, and the one to be moved, last; steps are out of step."""
    beside = 2 * BACKGROUND_STREAMS if busy else 0
    lengths = [BACKGROUND_TOKENS] * beside + [(context - BEFORE_TOKENS, AFTER_TOKENS)]
    at_s = 0.5 * np.arange(len(lengths)) + draws.uniform(0, 0.1, len(lengths))
    return [TraceRequest(n, float(at_s[n]), *length) for n, length in enumerate(lengths)]


def _order(fleet: SimulatedFleet, life: Life) -> None:
    """Order the move as a frontend does by hand; the llumlet is told which request to move."""
    source = life.instance_id
    assert source is not None
    (destination,) = (name for name in fleet.wiring.instances if name != source)
    order = MigrateOrder(
        source, InstanceId(destination), 1 << 40, MigrateReason.MANUAL, Explanation("manual")
    )
    fleet.scheduler.order_started(order, fleet.events.now_s)
    told = replace(fleet.moves.order(order), request_id=RequestId(life.request_id))
    fleet.network.post(partial(fleet._tell, fleet.wiring.instances[source], told))


def compare(contexts: Sequence[int], samples: int) -> dict[str, Any]:
    """Measure and predict; return both, and the difference of the means, by state and length."""
    real = asyncio.run(measured(contexts, samples))
    figures: dict[str, Any] = {}
    for state, by_context in real.items():
        for context, rows in by_context.items():
            simulated = [
                predicted(context, number, busy=state == "busy") for number in range(PREDICTIONS)
            ]
            named = {"measured": rows, "predicted": simulated}
            shown = {name: _estimates(some) for name, some in named.items()}
            figures.setdefault(state, {})[context] = shown
            for name in SHOWN:
                cells = [shown[kind][name] for kind in named]
                text = "  ".join(f"{mean:8.2f} ± {half:5.2f}" for mean, half in cells)
                print(
                    f"{state:<5}{context:>6} tokens {name:<12}{text}", file=sys.stderr, flush=True
                )
    return figures


def _estimates(rows: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Mean and half width of the interval of each figure."""
    found = {name: estimate([row[name] for row in rows]) for name in SHOWN}
    return {name: (one.mean, one.half_width or 0.0) for name, one in found.items()}


def _say(mode: str, context: int, sample: Sample) -> None:
    figures = "  ".join(f"{key} {value:7.1f}" for key, value in sample.items())
    print(f"{mode:<14}{context:>6} tokens  {figures}", file=sys.stderr, flush=True)
