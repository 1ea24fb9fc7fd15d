"""A fleet without servers, and frontends that are linked to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from llumnix.fleet.clock import FleetClock
from llumnix.fleet.fleet import Fleet
from llumnix.fleet.requests import RequestTable
from llumnix.frontend.queue import HoldQueue
from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import Identity, Instance, InstanceKind
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from llumnix.scheduler_link.desk.desk import Desk
from llumnix.scheduler_link.front.link import Dial, FrontLink
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import InstanceId, RequestId
from tests.llumnix.frontend.stage import load

SOON_S = 30.0
CLASSES = ["high", "normal"]
CAPACITY = 4_000


def make_fleet(tally: Tally, table: RequestTable) -> tuple[Fleet, HoldQueue]:
    config = FleetConfig()
    fleet = Fleet(
        config, GlobalScheduler(SchedulerConfig()), b"s", tally, FleetClock(), requests=table
    )
    for number in range(4):
        instance = Instance.at(f"http://127.0.0.1:{number + 1}")
        fleet.instances.add(instance)
        link: Any = SimpleNamespace()
        name = InstanceId(f"instance-{number}")
        instance.become(Identity(name, InstanceKind.PLUGGED, ({"id": "m"},)), link)
        report(fleet, name, 0, ())
    queue = HoldQueue(fleet.dispatch, SchedulerConfig().queue, 1000, 600.0, 2.0, spacing_s=0.0)
    fleet.changed = queue.retry
    return fleet, queue


def report(fleet: Fleet, name: InstanceId, running: int, new: tuple[str, ...]) -> None:
    instance = fleet.instances.get(name)
    assert instance is not None
    said = load("x", capacity_tokens=CAPACITY, physical_tokens=running * 500, running=(0, running))
    instance.take_load(said, fleet.now_s())
    fleet.reported(instance, [RequestId(each) for each in new])


@asynccontextmanager
async def linked(desk: Desk, folder: Path, count: int) -> AsyncIterator[list[FrontLink]]:
    path = str(folder / "s")
    server = await asyncio.get_running_loop().create_unix_server(desk.make_channel, path)
    desk.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(desk.close)
        stack.callback(server.close)
        links = []
        for number in range(count):
            link = FrontLink(
                f"front-{number}",
                Dial(path),
                FleetConfig(),
                len(CLASSES),
                b"s",
                Tally(FleetMetrics(CollectorRegistry()), CLASSES),
                0.0,
                600.0,
                2.0,
            )
            stack.push_async_callback(link.close)
            assert await link.start(SOON_S)
            links.append(link)
        yield links
