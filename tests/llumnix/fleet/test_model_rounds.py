"""Models are asked for again before one is said not to exist, and not more than once a second."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from llumnix.fleet.model_catalog import ModelCatalog
from llumnix.instances.instance import Instance
from llumnix.instances.table import InstanceTable


class _Server:
    """Lists its models, and counts how often it was asked."""

    def __init__(self) -> None:
        self.models = ["base"]
        self.asked = 0

    async def list(self, _http: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"data": [{"id": name} for name in self.models]})


class _Alive(InstanceTable):
    def alive(self) -> list[Instance]:
        return list(self)


class _Link:
    """Stands for a link: only whose it is matters."""


@pytest.fixture(name="server")
def _server() -> _Server:
    return _Server()


@pytest.fixture(name="catalog")
async def _catalog(server: _Server) -> AsyncIterator[ModelCatalog]:
    app = web.Application()
    app.add_routes([web.get("/v1/models", server.list)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    instance = Instance.at(f"http://127.0.0.1:{runner.addresses[0][1]}")
    instance.link = _Link()  # type: ignore[assignment]
    table = _Alive(1, time.monotonic)
    table.add(instance)
    async with aiohttp.ClientSession() as session:
        catalog = ModelCatalog(session, table, 60.0)
        yield catalog
        await catalog.close()
    await runner.cleanup()


async def test_a_model_loaded_just_after_an_answer_is_found(
    catalog: ModelCatalog, server: _Server
) -> None:
    """The law: whoever asks gets an answer from after it asked."""
    (instance,) = catalog.instances
    await catalog.refresh()
    for name in ("first", "second"):
        server.models.append(name)
        await catalog.refresh()
        assert name in instance.model_ids


async def test_a_flood_of_questions_is_one(catalog: ModelCatalog, server: _Server) -> None:
    await asyncio.gather(*(catalog.refresh() for _ in range(200)))

    assert server.asked == 1


async def test_giving_up_does_not_end_it_for_others(catalog: ModelCatalog, server: _Server) -> None:
    one, other = (asyncio.ensure_future(catalog.refresh()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await other

    assert server.asked == 1
