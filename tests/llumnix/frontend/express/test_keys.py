"""Requests of clients with a key on the short way: as whom they are, and without the key."""

from pathlib import Path

import pytest

from tests.llumnix.frontend.access.test_door import KEY, OTHER, WRONG, entry, guarded
from tests.llumnix.frontend.stage import Stage, until

BODY = {"model": "m", "prompt": "hi"}


def taken(stage: Stage) -> int:
    lane = stage.server._lane
    assert lane is not None
    return lane.taken


async def status(stage: Stage, headers: dict[str, str], **more: object) -> int:
    async with stage.session.post(
        "/v1/completions", json={**BODY, **more}, headers=headers
    ) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"X-Api-Key": KEY}], ids=["bearer", "api key"]
)
async def test_a_key_without_limits_takes_it_and_stays_here(
    tmp_path: Path, headers: dict[str, str], stream: bool
) -> None:
    async with guarded(tmp_path / "keys", entry(KEY, "acme")) as stage:
        assert await status(stage, headers, stream=stream) == 200
        assert taken(stage) == 1
        sent = stage.stubs[0].heard[-1].headers
        assert "Authorization" not in sent
        assert "X-Api-Key" not in sent
        page = await (await stage.session.get("/metrics")).text()
    assert 'llumnix_tenant_requests_total{status="2xx",tenant="acme"} 1.0' in page


async def test_a_key_gets_no_more_urgent_class_than_it_may_have(tmp_path: Path) -> None:
    async with guarded(tmp_path / "keys", entry(KEY, "acme", highest_class="normal")) as stage:
        headers = {"Authorization": f"Bearer {KEY}", "X-Llumnix-Class": "high"}
        assert await status(stage, headers, priority=-1) == 200
        assert taken(stage) == 1
        heard = stage.stubs[0].heard[-1]
        assert heard.headers["X-Llumnix-Class"] == "normal"
        assert heard.body["priority"] == 0


async def test_keys_with_limits_and_no_valid_key_go_the_long_way(tmp_path: Path) -> None:
    limited = entry(OTHER, "beta", requests_per_minute=1)
    async with guarded(tmp_path / "keys", entry(KEY, "acme"), limited) as stage:
        assert await status(stage, {"Authorization": f"Bearer {WRONG}"}) == 401
        assert await status(stage, {}) == 401
        assert await status(stage, {"Authorization": f"Bearer {OTHER}"}) == 200
        assert await status(stage, {"Authorization": f"Bearer {OTHER}"}) == 429
        assert taken(stage) == 0
        await until(lambda: not stage.fleet.requests.active)
