"""What it costs to say how a large fleet is: memory of explanations, and how long others wait."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llumnix.fleet import view
from llumnix.frontend.backing import metrics_page
from llumnix.frontend.http.slices import in_slices, json_list, json_object
from llumnix.frontend.queue import HoldQueue
from policies.types import RequestId
from scheduler_parts.fleet import World, build, cpu_s

EXPLAINED = 6_000


def explanations_mb(instances: int) -> float:
    """Measure what the decisions about the latest requests take, in MB."""
    world = build(instances, batch=1)
    world.report_all(world.mixed())
    decisions = world.fleet.requests._decisions
    tracemalloc.start()
    try:
        for number in range(EXPLAINED):
            ask = world.ask()
            world.fleet.dispatch(ask)
            world.fleet.forget(ask.request.request_id)
            if number % 10 == 0:
                engine = world.rng.choice(world.engines)
                engine.link.take(engine.report())
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        decisions._about.clear()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (before - after) / 1e6


@dataclass(frozen=True, slots=True)
class Answered:
    """How long an answer took, and the longest that nobody else could run: ms of CPU time."""

    total_ms: float
    longest_ms: float
    size_bytes: int


def answers(instances: int, batch: int) -> dict[str, Answered]:
    """Write the long answers of a fleet of so many instances, each of which runs a batch."""
    world = build(instances, batch)
    world.report_all(world.mixed())
    asks = [world.ask() for _ in range(16)]
    for ask in asks:
        world.fleet.dispatch(ask)
    gc.collect()  # what was built is no part of the answers
    return asyncio.run(_answers(world, asks[0].request.request_id))


async def _answers(world: World, explained: RequestId) -> dict[str, Answered]:
    fleet = world.fleet
    queue = HoldQueue(fleet.dispatch, fleet.scheduler.config.queue, 1000, 60.0, 1.0)
    registry = fleet.tally.metrics.registry
    pages: dict[str, Callable[[], Iterator[str]]] = {
        "/metrics, the first": lambda: metrics_page(fleet, queue, registry),
        "/metrics": lambda: metrics_page(fleet, queue, registry),
        "/llumnix/fleet": lambda: json_object(
            view.fleet_summary(fleet, 0, 1000).to_json(),
            "instances",
            (each.to_json() for each in view.instance_statuses(fleet)),
        ),
        "/llumnix/requests": lambda: json_list(
            each.to_json() for each in view.request_statuses(fleet)
        ),
        "/llumnix/explain": lambda: json_list(
            each.record().to_json() for each in fleet.requests.explain(explained) or ()
        ),
    }
    return {name: await _answered(pieces) for name, pieces in pages.items()}


async def _answered(pieces: Callable[[], Iterator[str]]) -> Answered:
    longest_s = 0.0

    async def others() -> None:
        nonlocal longest_s
        while True:
            began = cpu_s()
            await asyncio.sleep(0)
            longest_s = max(longest_s, cpu_s() - began)

    running = asyncio.create_task(others())
    await asyncio.sleep(0)
    began = cpu_s()
    text = "".join(await in_slices(pieces()))
    took = cpu_s() - began
    running.cancel()
    return Answered(round(took * 1e3, 1), round(longest_s * 1e3, 2), len(text))
