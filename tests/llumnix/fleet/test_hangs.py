"""Engines that hang or go silent while their servers answer: their streams go on elsewhere."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.llumnix.fleet.whole_fleet import Client, ask, fleet

_LISTENS = "0A"


async def state(client: Client, name: str) -> str:
    rows = (await client.get("/llumnix/fleet"))["instances"]
    return next(str(row["state"]) for row in rows if row["id"] == name)


async def all_flow(client: Client, count: int) -> bool:
    """Whether so many streams have some tokens each."""
    rows = await client.get("/llumnix/requests")
    return len(rows) == count and all(row["tokens"] > 5 for row in rows)


async def port_of(client: Client, name: str) -> int:
    rows = (await client.get("/llumnix/fleet"))["instances"]
    return int(next(row["url"] for row in rows if row["id"] == name).rsplit(":", 1)[1])


def listener(port: int) -> int:
    """Find the process that listens on a port."""
    sockets = {
        f"socket:[{row.split()[9]}]"
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if row.split()[3] == _LISTENS and int(row.split()[1].rsplit(":", 1)[1], 16) == port
    }
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(str(each.readlink()) in sockets for each in folder.iterdir()):
                return int(folder.parent.name)
    raise AssertionError(f"nobody listens on {port}")


@pytest.mark.parametrize(
    ("hang", "go_on", "found"),
    [(signal.SIGUSR1, signal.SIGUSR1, "suspect"), (signal.SIGSTOP, signal.SIGCONT, "down")],
)
async def test_streams_of_a_hung_instance_go_on_and_it_comes_back(
    hang: signal.Signals, go_on: signal.Signals, found: str
) -> None:
    """A hung engine whose llumlet still reports, and a whole process that stands still."""
    async with fleet(3, 1.0) as client:
        streams = [asyncio.create_task(ask(client, seed, 20, 200)) for seed in range(9)]
        assert await client.settled(lambda: all_flow(client, 9))
        pid = listener(await port_of(client, "instance-0"))
        os.kill(pid, hang)
        began_s = time.monotonic()
        try:

            async def suspected() -> bool:
                return await state(client, "instance-0") == found

            assert await client.settled(suspected)
            noticed_s = time.monotonic() - began_s
            answers = await asyncio.wait_for(asyncio.gather(*streams), 60.0)
            fresh = await asyncio.gather(*(ask(client, 100 + n, 20, 5) for n in range(6)))
            assert await state(client, "instance-0") == found
        finally:
            os.kill(pid, go_on)

        async def well() -> bool:
            return await state(client, "instance-0") == "up"

        assert all(answer.right for answer in [*answers, *fresh])
        assert await client.settled(well)
        print(f"{hang.name}: noticed after {noticed_s:.1f} s")
