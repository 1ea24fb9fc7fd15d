"""The clients' port and the admin port: what each serves, and to whom."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from llumnix.admin import credentials
from llumnix.admin.client import AdminClient, NotAFrontendError, RefusedError
from llumnix.admin.connect import find_door
from llumnix.admin.credentials import Published, all_published
from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.service import Service
from policies.scheduler import SchedulerConfig

ADMIN_PATHS = ("/llumnix/fleet", "/llumnix/events", "/llumnix", "/llumnix/drain", "/llumnix/x/y")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("LLUMNIX_ADMIN_TOKEN", raising=False)


@asynccontextmanager
async def service(**frontend: Any) -> AsyncIterator[Service]:
    """A frontend without instances; an admin port of its own unless said otherwise."""
    settings = {"port": 0, "admin_port": 0, "shutdown_grace_s": 0.1, **frontend}
    metrics = FleetMetrics(CollectorRegistry())
    config = FrontendConfig(**settings)
    async with Service(
        FleetConfig(), SchedulerConfig(), config, secret=b"s", metrics=metrics
    ) as running:
        yield running


async def status(method: str, url: str, **more: Any) -> int:
    async with aiohttp.ClientSession() as session, session.request(method, url, **more) as answer:
        await answer.read()
        return answer.status


async def test_the_clients_port_has_nothing_of_the_admin_api() -> None:
    async with service() as running:
        for path in ADMIN_PATHS:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                assert await status(method, running.url + path, json={}) == 404, (method, path)


async def test_the_admin_port_wants_its_token_and_serves_no_completions() -> None:
    async with service() as running:
        url = running.admin_url
        assert url != running.url
        for path in ADMIN_PATHS:
            assert await status("GET", url + path) == 401
        assert await status("POST", f"{url}/llumnix/drain", json={}) == 401
        (published,) = all_published()
        mine = {"Authorization": f"Bearer {published.token}"}
        assert await status("GET", f"{url}/llumnix/fleet", headers=mine) == 200
        assert await status("POST", f"{url}/v1/completions", headers=mine, json={}) == 404
        assert await status("GET", f"{url}/ready") == 503
        assert await status("GET", f"{url}/metrics") == 200


async def test_a_local_command_finds_port_and_token() -> None:
    async with service() as running:
        door = find_door(running.url, "", {}, all_published())
        client = AdminClient(door.url, token=door.token)
        assert (await asyncio.to_thread(client.fleet)).instances == ()
        stranger = AdminClient(door.url, token="x" * 20)
        with pytest.raises(RefusedError, match="--token-file"):
            await asyncio.to_thread(stranger.fleet)
        lost = AdminClient(running.url, token=door.token)
        with pytest.raises(NotAFrontendError, match="9011"):
            await asyncio.to_thread(lost.fleet)
    assert all_published() == []


async def test_a_token_of_the_operators_own_is_not_published(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("operators-own-token-0123456789")
    async with service(admin_token_file=str(file)) as running:
        assert all_published() == []
        mine = {"Authorization": "Bearer operators-own-token-0123456789"}
        assert await status("GET", f"{running.admin_url}/llumnix/fleet", headers=mine) == 200


async def test_where_no_token_can_be_left_the_service_still_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only container: the admin API stays shut, and the log says what to do."""

    def no_room(_published: Published) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(credentials, "publish", no_room)
    with caplog.at_level(logging.WARNING):
        async with service() as running:
            assert await status("GET", f"{running.url}/ready") == 503
            assert await status("GET", f"{running.admin_url}/llumnix/fleet") == 401
    assert "--admin-token-file" in caplog.text


async def test_launchers_get_one_port_that_no_web_page_can_use() -> None:
    async with service(admin_port=None) as running:
        assert running.admin_url == running.url
        order = json.dumps({"instance_id": "a"})
        url = f"{running.url}/llumnix/drain"
        as_json = {"Content-Type": "application/json"}
        assert await status("POST", url, data=order, headers=as_json) == 404  # no such instance
        assert await status("POST", url, data=order, headers={"Content-Type": "text/plain"}) == 415
        foreign = {**as_json, "Origin": "https://elsewhere.example"}
        assert await status("POST", url, data=order, headers=foreign) == 403
        rebound = {**as_json, "Host": "rebound.example"}
        assert await status("POST", url, data=order, headers=rebound) == 403
        assert all_published() == []


def test_one_port_is_for_loopback_without_a_token_only() -> None:
    assert FrontendConfig(port=0).shares_port("")
    assert not FrontendConfig(port=0).shares_port("token")
    assert not FrontendConfig(port=0, host="0.0.0.0").shares_port("")
    assert not FrontendConfig(port=0, admin_port=0).shares_port("")
    assert not FrontendConfig(port=8000).shares_port("")
    assert FrontendConfig(port=8000).admin_port_wanted() == 9011
    assert FrontendConfig(port=0).admin_port_wanted() == 0
    refused: list[dict[str, Any]] = [
        {"port": 65536},
        {"admin_port": -1},
        {"port": 9011, "admin_port": 9011},
    ]
    for wrong in refused:
        with pytest.raises(ValueError, match="port"):
            FrontendConfig(**wrong)


async def test_metrics_can_be_kept_off_the_clients_port() -> None:
    async with service(metrics_on_clients_port=False) as running:
        assert await status("GET", f"{running.url}/metrics") == 404
        assert await status("GET", f"{running.admin_url}/metrics") == 200


async def test_an_order_has_a_bound() -> None:
    async with service(admin_port=None) as running:
        url = f"{running.url}/llumnix/drain"
        assert await status("POST", url, json={"instance_id": "x" * 70_000}) == 413
        nested = b"[" * 60_000
        as_json = {"Content-Type": "application/json"}
        assert await status("POST", url, data=nested, headers=as_json) == 400
