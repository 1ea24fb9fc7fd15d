"""Two frontends share one scheduler over TCP; one is killed, and its clients go to the other."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.main import emulator
from llumnix.errors import ConfigError
from llumnix.workers.link_address import insist_on_secret, read_address
from tests.llumnix.frontend.reconnect.doors import events, read_some, timeless
from tests.llumnix.workers.apart import SECRET, bare_scheduler, frontend, process, scheduler

STREAMS, TOKENS = 6, 200


def body(number: int) -> dict[str, Any]:
    asked = {"prompt": f"prompt {number}", "max_tokens": TOKENS, "ignore_eos": True}
    return {**asked, "stream": True, "stream_options": {"include_usage": True}}


@asynccontextmanager
async def engine(name: str) -> AsyncIterator[str]:
    """Run an emulated instance within this process; yields its URL."""
    config = EmulatorConfig(preset="toy", model="toy", instance_id=name)
    async with emulator(config, SECRET.encode()) as running:
        yield running.url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


async def whole(session: aiohttp.ClientSession, url: str, number: int, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(f"{url}/v1/completions", json=body(number), headers=named) as response:
        assert response.status == 200, await response.text()
        read: bytes = await response.read()
        return read


async def comes_back(
    session: aiohttp.ClientSession, dying: str, living: str, number: int, begun: asyncio.Barrier
) -> bytes:
    """Stream from a frontend that dies, then from the one that lives; return all events."""
    name, had = f"back-{number}", b""
    headers = {"X-Request-Id": name, "Last-Event-ID": "0"}
    async with session.post(
        f"{dying}/v1/completions", json=body(number), headers=headers
    ) as response:
        had = await read_some(response, 5 + number)
        await begun.wait()
        try:
            while more := await response.content.readany():
                had += more
        except aiohttp.ClientError:
            pass
    had = had[: had.rfind(b"\n\n") + 2]
    assert b"[DONE]" not in had, "it was killed in the middle"
    since = events(had)[-1][0]
    return had + await whole(session, living, number, X_Request_Id=name, Last_Event_ID=since)


@pytest.mark.timeout(180)
async def test_a_frontends_death_costs_its_own_streams_and_these_go_on(tmp_path: Path) -> None:
    async with (
        scheduler(tmp_path) as (_, told),
        frontend(tmp_path, "a", told["address"]) as (dying, a),
        frontend(tmp_path, "b", told["address"]) as (_, b),
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
    ):
        expected = [timeless(await whole(session, b["url"], i)) for i in range(STREAMS)]
        begun = asyncio.Barrier(STREAMS + 1)
        back = [
            asyncio.create_task(comes_back(session, a["url"], b["url"], i, begun))
            for i in range(STREAMS)
        ]
        others = [asyncio.create_task(whole(session, b["url"], i)) for i in range(STREAMS)]
        async with asyncio.timeout(30):
            await begun.wait()
        dying.send_signal(signal.SIGKILL)
        assert [timeless(each) for each in await asyncio.gather(*others)] == expected
        rest = [b"".join(e for _, e in events(each)) for each in await asyncio.gather(*back)]
        assert [timeless(each) for each in rest] == expected


@pytest.mark.timeout(180)
async def test_the_admin_api_is_at_the_scheduler(tmp_path: Path) -> None:
    async with (
        scheduler(tmp_path) as (_, own),
        aiohttp.ClientSession() as session,
    ):
        async with session.get(f"{own['admin_url']}/health") as response:
            assert response.status == 200
        async with frontend(tmp_path, "a", own["address"]) as (_, a):
            async with session.get(f"{a['url']}/llumnix/instances") as response:
                assert response.status == 404
                assert "scheduler" in (await response.json())["error"]["message"]
            async with session.get(f"{a['url']}/metrics") as response:
                assert response.status == 200
                assert "llumnix_requests_total" in await response.text()


@pytest.mark.timeout(180)
async def test_a_scheduler_that_dies_costs_no_stream_and_no_newcomer(tmp_path: Path) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        instances = [await stack.enter_async_context(engine(name)) for name in ("x", "y")]
        named = [text for each in instances for text in ("--instance", each)]
        first = AsyncExitStack()
        killed, told = await first.enter_async_context(
            bare_scheduler(tmp_path, f"127.0.0.1:{port}", *named)
        )
        _, a = await stack.enter_async_context(frontend(tmp_path, "a", told["address"]))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        expected = [timeless(await whole(session, a["url"], i)) for i in range(STREAMS)]
        running = [asyncio.create_task(whole(session, a["url"], i)) for i in range(STREAMS)]
        await asyncio.sleep(0)
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
        newcomers = [timeless(await whole(session, a["url"], i)) for i in range(STREAMS)]
        assert newcomers == expected
        assert [timeless(each) for each in await asyncio.gather(*running)] == expected
        await first.aclose()
        _, again = await stack.enter_async_context(
            bare_scheduler(tmp_path, f"127.0.0.1:{port}", *named)
        )
        log = tmp_path / "a.log"
        async with asyncio.timeout(30):
            while "event=scheduler_back" not in log.read_text():  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.1)
        assert timeless(await whole(session, a["url"], 0)) == expected[0]
        assert again["address"] == told["address"]


@pytest.mark.timeout(120)
async def test_another_secret_is_turned_away(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with scheduler(tmp_path) as (_, told):
        with pytest.raises(AssertionError, match="secret"):
            async with process(
                other,
                "stranger",
                *("serve", "--port", "0", "--scheduler", told["address"]),
                *("--start-timeout-s", "2"),
                secret="something else",
            ):
                pass


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:70000", "::1:80"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        read_address(text, "--scheduler")
    assert read_address("[::1]:80", "--scheduler") == ("::1", 80)


def test_other_machines_must_know_a_secret() -> None:
    insist_on_secret(b"", ["127.0.0.1", "localhost"])
    insist_on_secret(b"x", ["10.0.0.1"])
    with pytest.raises(ConfigError, match="secret"):
        insist_on_secret(b"", ["10.0.0.1"])
