"""Models that come and go while the instances stay: found at once, and asked for in moderation."""

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from llumnix.fleet import model_catalog
from llumnix.instances.instance import InstanceState
from tests.llumnix.frontend.stage import until
from tests.llumnix.instances.raw_server import RawServer, Reply, raw_server
from tests.llumnix.instances.test_credentials import completed, frontend
from tests.llumnix.instances.test_trouble import fleet_of


@pytest.fixture(name="no_pause")
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(model_catalog, "_ASK_AGAIN_S", 0.0)
        yield


def times_asked(server: RawServer) -> int:
    return server.asked.count("/v1/models")


async def status_of(url: str, model: str) -> int:
    body = {"model": model, "prompt": "x", "max_tokens": 1}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json=body) as response,
    ):
        return response.status


async def test_a_model_loaded_at_run_time_is_served_at_its_first_request() -> None:
    async with raw_server() as server, fleet_of(server.url, models_interval_s=60) as fleet:
        await until(lambda: fleet.instances.up())
        async with frontend(fleet) as url:
            server.models.append("lora")
            assert await status_of(url, "lora") == 200


async def test_a_flood_of_wrong_models_asks_each_server_once_a_second() -> None:
    async with raw_server() as server, fleet_of(server.url, models_interval_s=60) as fleet:
        await until(lambda: fleet.instances.up())
        async with frontend(fleet) as url:
            before = times_asked(server)
            statuses = await asyncio.gather(*(status_of(url, f"no{i}") for i in range(100)))
            assert set(statuses) == {404}
            # The flood may take more than a second on a machine that is busy, but not a hundred.
            assert times_asked(server) - before < 50
            assert (await completed(url))[0] == 200


@pytest.mark.usefixtures("no_pause")
async def test_those_who_come_while_servers_are_asked_share_the_answer() -> None:
    async with raw_server() as server, fleet_of(server.url, models_interval_s=60) as fleet:
        await until(lambda: fleet.instances.up())
        before = times_asked(server)
        server.answer = lambda path, headers: (
            None if path == "/v1/models" else server.usual(path, headers)
        )
        asking = [asyncio.create_task(fleet.finds("no")) for _ in range(20)]
        await until(lambda: times_asked(server) > before)
        # One that leaves takes no other's answer away; nobody waits long for a silent server.
        asking.pop().cancel()
        assert await asyncio.gather(*asking) == [False] * 19
        assert times_asked(server) == before + 1


async def test_models_are_current_within_their_interval() -> None:
    """Also where nobody asks: what a server no longer has is not sent to it for long."""
    async with raw_server() as server, fleet_of(server.url, models_interval_s=0.05) as fleet:
        await until(lambda: fleet.instances.up())
        (instance,) = fleet.instances
        server.models[:] = ["other"]
        await until(lambda: instance.model_ids == {"other"})
        server.answer = lambda path, headers: (
            Reply("", 500) if path == "/v1/models" else server.usual(path, headers)
        )
        before = times_asked(server)
        await until(lambda: times_asked(server) > before + 2)
        assert instance.model_ids == {"other"}
        assert instance.state is InstanceState.UP


async def test_a_server_restarted_with_another_model_is_known_by_it() -> None:
    """On the same port, as a container that is replaced."""
    async with raw_server() as server, fleet_of(server.url, models_interval_s=60) as fleet:
        (instance,) = fleet.instances
        await until(lambda: instance.alive)
        await server.stop()
        await until(lambda: not instance.alive)
        server.models[:] = ["new"]
        await server.start()
        await until(lambda: instance.alive)
        assert instance.model_ids == {"new"}
        assert not fleet.serves("m")
