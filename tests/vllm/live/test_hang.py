"""A worker that hangs, as with its GPU, while its engine goes on reporting."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from llumnix.testbed import Environment
from llumnix.testbed.servers import VllmServer, fleet_options
from testbed.cases import all_cases
from testbed.exactness import prompt_text
from testbed.recorder import differences
from testbed.stack import Stack, launched_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    environment: Environment, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Two servers whose workers are processes of their own."""
    options = [
        replace(each, step_s=0.02, arguments=("--distributed-executor-backend=mp",))
        for each in fleet_options(environment, model, 2, secret="of this fleet")
    ]
    async with launched_stack(options, tmp_path_factory.mktemp("hang")) as running:
        yield running


async def test_streams_of_a_hung_worker_go_on_elsewhere(stack: Stack) -> None:
    """They do while it hangs, whole and without a difference; then it is used again."""
    case = next(each for each in all_cases() if each.name == "greedy" and not each.chat)
    bodies = [
        {**case.whole_body(prompt_text(number, 60), stream=True), "max_tokens": 400}
        for number in range(STREAMS)
    ]
    expected = [await stack.fleet.ride(case.path, body) for body in bodies[:2]]
    rides = [asyncio.create_task(stack.fleet.ride(case.path, body)) for body in bodies]
    hung = stack.servers[0]
    worker = _worker(hung)
    await _flow(stack, STREAMS)
    os.kill(worker, signal.SIGSTOP)
    try:
        await _until(stack, hung, "suspect")
        done = await asyncio.wait_for(asyncio.gather(*rides), 120.0)
        fresh = await stack.fleet.ride(case.path, bodies[0])
    finally:
        os.kill(worker, signal.SIGCONT)
    await _until(stack, hung, "up")

    assert not [each.recording.error for each in done if each.recording.error]
    for before, after in zip(expected, done, strict=False):
        assert differences(before.recording, after.recording) == []
    assert differences(expected[0].recording, fresh.recording) == []
    assert (await stack.fleet.get("/llumnix/fleet"))["totals"]["stream_mismatches"] == 0


def _worker(server: VllmServer) -> int:
    """Return the id of the process in which the server's only worker runs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "comm").read_text().strip()
            group = os.getpgid(int(folder.name))
        except OSError:
            continue
        if group == server.pid and "Worker" in name:
            found.append(int(folder.name))
    assert len(found) == 1, found
    return found[0]


async def _flow(stack: Stack, count: int) -> None:
    async with asyncio.timeout(60.0):
        while True:
            rows = await stack.fleet.get("/llumnix/requests")
            if sum(row["tokens"] > 5 for row in rows) >= count:
                return
            await asyncio.sleep(0.05)


async def _until(stack: Stack, server: VllmServer, state: str) -> None:
    async with asyncio.timeout(60.0):
        while True:
            rows = (await stack.fleet.get("/llumnix/fleet"))["instances"]
            if next(row["state"] for row in rows if row["url"] == server.url) == state:
                return
            await asyncio.sleep(0.05)
