"""What holds over several frontends, and what stays of one whose scheduler is gone."""

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry

from llumnix.fleet.fleet import Fleet, PlacementRequest
from llumnix.fleet.requests import ActiveRequest
from llumnix.frontend.access.limits import Exceeded, Limits
from llumnix.frontend.queue import HoldQueue
from llumnix.instances.instance import Instance
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.scheduler_link.desk.counted import shared_tally
from llumnix.scheduler_link.desk.desk import Desk
from llumnix.scheduler_link.desk.requests import DeskRequestTable
from llumnix.scheduler_link.front.link import FrontLink
from policies.types import DispatchRequest, MigrationId, RequestId
from tests.llumnix.scheduler_link.links import CLASSES, SOON_S, linked, make_fleet, report


def make_desk() -> tuple[Desk, Fleet, HoldQueue]:
    tally, counted = shared_tally(FleetMetrics(CollectorRegistry()), CLASSES)
    fleet, queue = make_fleet(tally, DeskRequestTable())
    return Desk(fleet, queue, counted), fleet, queue


def ask(name: str, tokens: int = 100, model: str = "m") -> PlacementRequest:
    return PlacementRequest(DispatchRequest(RequestId(name), 1, tokens, 1.0, model=model))


def opened(link: FrontLink, name: str) -> ActiveRequest:
    active = ActiveRequest(RequestId(name), "normal", 1.0)
    link.fleet.requests.open(active)
    return active


async def heard(link: FrontLink) -> None:
    """Wait until the scheduler has carried out all that was said so far."""
    link.fleet.requests.tell()
    await link.fleet.health.judged(RequestId("nobody"))


async def test_a_limit_is_one_limit_for_all_frontends(tmp_path: Path) -> None:
    limits = Limits(concurrent_requests=3, tokens_per_minute=600)
    desk, _, _ = make_desk()
    async with linked(desk, tmp_path, 2) as (one, two):
        tolls = [await link.tolls.enter("key", limits) for link in (one, two, one)]
        refused = await two.tolls.enter("key", limits)
        assert isinstance(refused, Exceeded)
        assert refused.limit == 3
        first = tolls[0]
        assert first is not None
        assert not isinstance(first, Exceeded)
        assert await first.reserve(400, 0) is None
        second = tolls[1]
        assert second is not None
        assert not isinstance(second, Exceeded)
        assert isinstance(await second.reserve(400, 0), Exceeded)
        first.end(400)
        await heard(one)
        again = await two.tolls.enter("key", limits)
        assert again is not None
        assert not isinstance(again, Exceeded)
        await one.close()  # its visits are over
        async with asyncio.timeout(SOON_S):
            while isinstance(await two.tolls.enter("key", limits), Exceeded):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_ids_are_told_apart_over_all_frontends(tmp_path: Path) -> None:
    desk, _, _ = make_desk()
    async with linked(desk, tmp_path, 2) as (one, two):
        assert await one.fleet.unique_id("x") == "x"
        other = await two.fleet.unique_id("x")
        assert other.startswith("x~")
        opened(one, "x")
        one.fleet.requests.close(RequestId("x"))
        await heard(one)
        assert await two.fleet.unique_id("x") == "x"


async def lost(link: FrontLink) -> None:
    """Wait until a frontend knows that its scheduler is gone."""
    async with asyncio.timeout(SOON_S):
        while link.served.is_set():  # noqa: ASYNC110 - it is only ever set
            await asyncio.sleep(0.01)


async def test_without_a_scheduler_frontends_never_choose_the_same_id(tmp_path: Path) -> None:
    desk, _, _ = make_desk()
    async with linked(desk, tmp_path, 2) as links:
        await desk.close()
        for link in links:
            await lost(link)
        ids = {await link.fleet.unique_id("x") for link in links}
        assert len(ids) == 2
        assert all(each.startswith("x~") for each in ids)


async def test_who_only_asks_for_a_server_needs_no_place_in_the_table(tmp_path: Path) -> None:
    desk, fleet, _ = make_desk()
    async with linked(desk, tmp_path, 1) as (link,):
        placed = await link.queue.place(ask("passed-on"))
        assert isinstance(placed, Instance)
        assert not fleet.requests.active
        assert len(fleet.scheduler.ledger) == 0  # type: ignore[attr-defined]


async def test_an_instance_that_was_lost_for_a_moment_is_known_to_be_back(tmp_path: Path) -> None:
    desk, fleet, _ = make_desk()
    async with linked(desk, tmp_path, 1) as (link,):
        there, here = fleet.instances.at(0), link.fleet.instances.at(0)
        kept = there.link, there.load
        assert kept[0] is not None
        kept[0].give_up = lambda reason: None  # type: ignore[method-assign]
        link.fleet.suspect(here, "it refused a connection")
        assert not here.alive
        async with asyncio.timeout(SOON_S):
            while there.alive:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0)
            there.link, there.load = kept
            while not here.alive:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)


async def test_requests_go_on_while_there_is_no_scheduler(tmp_path: Path) -> None:
    desk, fleet, _ = make_desk()
    async with linked(desk, tmp_path, 1) as (link,):
        fleet.mover.book.destinations.ordered(MigrationId("m1"), fleet.instances.at(2).id)
        running = opened(link, "running")
        placed = await link.queue.place(ask("running"))
        assert isinstance(placed, Instance)
        running.goes_to(placed.id)
        opened(link, "held")
        held = asyncio.create_task(link.queue.place(ask("held", model="nobody's")))
        await heard(link)
        assert len(desk.queue) == 1

        await desk.close()
        await lost(link)
        opened(link, "new")
        chosen = link.queue.place_now(ask("new"))
        assert chosen is not None
        assert chosen.id != placed.id  # where fewest are in flight
        claim = link.fleet.claim_at(MigrationId("m1"))
        assert claim is not None
        assert claim[1].id == fleet.instances.at(2).id
        assert not held.done()
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)


async def test_the_next_scheduler_is_told_all_that_is_under_way(tmp_path: Path) -> None:
    old, before, _ = make_desk()
    async with linked(old, tmp_path, 2) as links:
        for number, link in enumerate(links):
            active = opened(link, f"running-{number}")
            placed = await link.queue.place(ask(active.request_id))
            assert isinstance(placed, Instance)
            active.goes_to(placed.id)
        for each in list(before.instances):
            report(before, each.id, 7, ())
        opened(links[0], "held")
        held = asyncio.create_task(links[0].queue.place(ask("held", tokens=3_900)))
        await heard(links[0])
        assert len(old.queue) == 1

        new, fleet, queue = make_desk()
        for each in list(fleet.instances):
            report(fleet, each.id, 7, ())
        (tmp_path / "s").unlink()
        path = str(tmp_path / "s")
        server = await asyncio.get_running_loop().create_unix_server(new.make_channel, path)
        new.start()
        await asyncio.sleep(0.2)  # what has waited no longer would go elsewhere at once
        await old.close()
        async with asyncio.timeout(SOON_S):
            while len(queue) < 1:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
        for link in links:
            await heard(link)
        assert {*fleet.requests.active} == {"running-0", "running-1", "held"}
        for number, link in enumerate(links):
            known = fleet.requests.active[RequestId(f"running-{number}")]
            own = link.fleet.requests.active[RequestId(f"running-{number}")]
            assert known.instance_id == own.instance_id
        assert len(fleet.scheduler.ledger) == 2  # type: ignore[attr-defined]
        report(fleet, fleet.instances.at(1).id, 0, ())
        async with asyncio.timeout(SOON_S):
            assert await held is links[0].fleet.instances.get(fleet.instances.at(1).id)
        await new.close()
        server.close()


async def test_a_frontend_that_is_gone_leaves_nothing_behind(tmp_path: Path) -> None:
    desk, fleet, queue = make_desk()
    async with linked(desk, tmp_path, 2) as (one, two):
        opened(one, "a")
        placed = await one.queue.place(ask("a"))
        assert isinstance(placed, Instance)
        opened(one, "b")
        waiting = asyncio.create_task(one.queue.place(ask("b", model="nobody's")))
        opened(two, "c")
        await heard(one)
        await heard(two)
        assert len(queue) == 1
        await one.close()
        async with asyncio.timeout(SOON_S):
            while len(queue):  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
        await heard(two)
        assert {*fleet.requests.active} == {"c"}
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
