"""Four frontends on one scheduler: each request goes where it goes in one process."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from llumnix.fleet.fleet import Fleet, PlacementRequest
from llumnix.fleet.requests import ActiveRequest, RequestTable
from llumnix.frontend.seam import Queue, ServedFleet
from llumnix.instances.instance import Instance
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from llumnix.scheduler_link.desk.counted import shared_tally
from llumnix.scheduler_link.desk.desk import Desk
from llumnix.scheduler_link.desk.requests import DeskRequestTable
from policies.types import DispatchRequest, InstanceId, RequestId
from tests.llumnix.scheduler_link.links import CLASSES, linked, make_fleet, report

Settle = Callable[[], Awaitable[None]]


class Run:
    """One recorded run, on any number of frontends before one fleet."""

    def __init__(self, fleet: Fleet, ends: list[tuple[ServedFleet, Queue]], settle: Settle) -> None:
        self.fleet = fleet
        self.placed: list[tuple[str, str]] = []
        self._ends = ends
        self._settle = settle
        self._rng = random.Random(12)
        self._running: dict[str, tuple[int, InstanceId]] = {}
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._new: dict[InstanceId, list[str]] = {}

    async def play(self, steps: int) -> None:
        for number in range(steps):
            match self._rng.choice("aaarreee"):
                case "a":
                    self._arrive(number)
                case "r":
                    self._report()
                case _:
                    self._end()
            await self._settle()
        for task in self._waiting.values():
            task.cancel()
        await asyncio.gather(*self._waiting.values(), return_exceptions=True)

    def _arrive(self, number: int) -> None:
        request_id, end = f"request-{number}", number % len(self._ends)
        class_index, tokens = self._rng.randrange(2), self._rng.randrange(100, 1500)
        active = ActiveRequest(RequestId(request_id), CLASSES[class_index], float(number))
        self._ends[end][0].requests.open(active)
        wanted = DispatchRequest(active.request_id, class_index, tokens, float(number), model="m")
        task = asyncio.create_task(self._place(active, end, PlacementRequest(wanted)))
        self._waiting[request_id] = task

    async def _place(self, active: ActiveRequest, end: int, ask: PlacementRequest) -> None:
        placed = await self._ends[end][1].place(ask)
        assert isinstance(placed, Instance)
        active.goes_to(placed.id)
        self.placed.append((active.request_id, placed.id))
        self._running[active.request_id] = end, placed.id
        self._new.setdefault(placed.id, []).append(active.request_id)
        del self._waiting[active.request_id]

    def _report(self) -> None:
        name = InstanceId(f"instance-{self._rng.randrange(4)}")
        running = sum(at == name for _, at in self._running.values())
        report(self.fleet, name, running, tuple(self._new.pop(name, ())))

    def _end(self) -> None:
        if not self._running:
            return
        request_id = self._rng.choice(sorted(self._running))
        end, _ = self._running.pop(request_id)
        fleet, queue = self._ends[end]
        fleet.requests.close(RequestId(request_id))
        fleet.forget(RequestId(request_id))
        queue.retry()


async def in_one_process(steps: int) -> list[tuple[str, str]]:
    tally = Tally(FleetMetrics(CollectorRegistry()), CLASSES)
    fleet, queue = make_fleet(tally, RequestTable())

    async def settle() -> None:
        await asyncio.sleep(0.003)

    run = Run(fleet, [(fleet, queue)], settle)
    await run.play(steps)
    return run.placed


async def over_links(steps: int, folder: Path) -> list[tuple[str, str]]:
    tally, counted = shared_tally(FleetMetrics(CollectorRegistry()), CLASSES)
    fleet, queue = make_fleet(tally, DeskRequestTable())
    async with linked(Desk(fleet, queue, counted), folder, 4) as links:

        async def settle() -> None:
            await asyncio.sleep(0)
            for link in links:  # an answer comes after all that was said before
                assert await link.fleet.finds("m")
                await link.fleet.health.judged(RequestId("nobody"))
            await asyncio.sleep(0.003)

        run = Run(fleet, [(link.fleet, link.queue) for link in links], settle)
        await run.play(steps)
        return run.placed


@pytest.mark.timeout(90)
async def test_four_frontends_are_placed_as_one_is(tmp_path: Path) -> None:
    alone = await in_one_process(300)
    together = await over_links(300, tmp_path)
    assert len(alone) > 50  # most had to wait for it
    assert together == alone
