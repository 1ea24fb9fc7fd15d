"""What single decisions cost: a dispatch, a report, a pass of the rebalance."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llumnix.instances.instance import Instance
from migration.llumlet.fleet_messages import EventKind, MigrationEvent
from scheduler_parts.fleet import World, build, cpu_s


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost in microseconds of CPU: the median, and what one in a hundred exceeds."""

    p50_us: float
    p99_us: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Cost":
        """Summarise measurements."""
        p50, p99 = np.percentile(np.array(seconds) * 1e6, [50, 99])
        return cls(round(float(p50), 1), round(float(p99), 1))

    def __str__(self) -> str:
        return f"{self.p50_us:,.0f}/{self.p99_us:,.0f}"


@dataclass(frozen=True, slots=True)
class Decisions:
    """The costs of decisions in a fleet with room, each of one kind."""

    dispatch: Cost
    after_report: Cost
    report: Cost
    rebalance: Cost
    orders: float


def measure(instances: int, dispatches: int, passes: int) -> Decisions:
    """Measure them in a fleet of so many instances."""
    world = build(instances)
    world.report_all(world.mixed())
    dispatch = [_dispatch(world) for _ in range(dispatches)]
    after, report = [], []
    for _ in range(dispatches):
        engine = world.rng.choice(world.engines)
        data = engine.report()
        began = cpu_s()
        engine.link.take(data)
        report.append(cpu_s() - began)
        after.append(_dispatch(world))
    rebalance, orders = asyncio.run(_passes(world, passes))
    return Decisions(Cost.of(dispatch), Cost.of(after), Cost.of(report), Cost.of(rebalance), orders)


def _dispatch(world: World) -> float:
    ask = world.ask()
    began = cpu_s()
    placed = world.fleet.dispatch(ask)
    took = cpu_s() - began
    assert isinstance(placed, Instance)
    world.fleet.forget(ask.request.request_id)
    return took


async def _passes(world: World, passes: int) -> tuple[list[float], float]:
    """Rebalance over and over; all instances report and all orders end between two passes."""
    costs, orders = [], 0
    for _ in range(passes):
        world.report_all(world.mixed())
        began = cpu_s()
        await world.fleet.mover.round()
        costs.append(cpu_s() - began)
        orders += len(world.orders)
        end_orders(world)
    return costs, orders / passes


def end_orders(world: World) -> None:
    """Let the engines report that all they were ordered to move has moved."""
    while world.orders:
        move = world.orders.popleft()
        source = world.fleet.requests.at(move.source)
        request_id = source[0].request_id if source else ""
        pair = move.source, move.destination.id
        for kind in (EventKind.STARTED, EventKind.COMMITTED):
            world.fleet.heard(
                MigrationEvent(kind, move.migration_id, request_id, *pair, move.reason)
            )
