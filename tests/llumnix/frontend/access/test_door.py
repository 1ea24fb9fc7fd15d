"""The clients' port with API keys, end to end: who gets in, as what, and how much."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from prometheus_client import CollectorRegistry

from llumnix.errors import ConfigError
from llumnix.frontend.access.keys import hash_of
from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.service import Service
from policies.scheduler import SchedulerConfig
from tests.llumnix.frontend.paths.served import PathServer
from tests.llumnix.frontend.paths.test_websocket import echo, speak
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script

KEY, OTHER, WRONG = "key-of-acme-0123456789", "key-of-beta-0123456789", "key-of-nobody-01234567"


def entry(key: str, tenant: str, **more: Any) -> dict[str, Any]:
    return {"sha256": hash_of(key), "tenant": tenant, **more}


def store(file: Path, *entries: dict[str, Any]) -> None:
    file.write_text(json.dumps(entries))


@asynccontextmanager
async def guarded(file: Path, *entries: dict[str, Any], **config: Any) -> AsyncIterator[Stage]:
    store(file, *entries)
    async with Stage(1, api_keys_file=str(file), **config) as stage:
        yield stage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ask(
    stage: Stage, key: str = KEY, path: str = "/v1/completions", **more: Any
) -> tuple[int, dict[str, str], Any]:
    body = {"model": "m", "prompt": "hi", "stream": False, **more}
    async with stage.session.post(path, json=body, headers=bearer(key)) as response:
        return response.status, dict(response.headers), await response.json()


async def test_without_a_valid_key_nothing_is_answered(file: Path) -> None:
    async with guarded(file, entry(KEY, "acme")) as stage:
        for headers in ({}, bearer(WRONG), {"Authorization": KEY}, {"X-Api-Key": WRONG}):
            for method, path in (
                ("POST", "/v1/completions"),
                ("GET", "/v1/models"),
                ("GET", "/version"),
                ("POST", "/v1/embeddings"),
                ("GET", "/health/x"),
            ):
                async with stage.session.request(method, path, headers=headers) as response:
                    assert response.status == 401, (path, headers)
                    assert response.headers["WWW-Authenticate"] == "Bearer"
                    error = (await response.json())["error"]
                    assert error["code"] in ("missing_api_key", "invalid_api_key")
        assert stage.stubs[0].heard == []
        assert stage.metric("access_refused_total", reason="invalid_api_key") >= 10


async def test_probes_and_scrapers_need_no_key(file: Path) -> None:
    async with guarded(file, entry(KEY, "acme")) as stage:
        for path in ("/health", "/metrics"):
            async with stage.session.get(path) as response:
                assert response.status == 200


async def test_openais_client_gets_in_with_its_key_and_understands_refusals(file: Path) -> None:
    async with guarded(file, entry(KEY, "acme", requests_per_minute=1)) as stage:
        base = f"{stage.url}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=KEY, max_retries=0) as client:
            answer = await client.completions.create(model="m", prompt="hi")
            assert answer.choices
            with pytest.raises(openai.RateLimitError) as limited:
                await client.completions.create(model="m", prompt="hi")
            assert 1 <= int(limited.value.response.headers["Retry-After"]) <= 60
            assert limited.value.code == "rate_limit_exceeded"
        async with openai.AsyncOpenAI(base_url=base, api_key=WRONG, max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()


async def test_the_key_is_never_forwarded_and_never_logged(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded(file, entry(KEY, "acme")) as stage:
        with caplog.at_level(logging.DEBUG):
            assert (await ask(stage))[0] == 200
            headers = {"X-Api-Key": KEY}
            async with stage.session.get("/version", headers=headers) as response:
                assert response.status != 401
            assert (await ask(stage, WRONG))[0] == 401
        seen = [str(heard.headers) for heard in stage.stubs[0].heard]
    assert seen
    assert not any(KEY in headers for headers in seen)
    assert KEY not in caplog.text
    assert WRONG not in caplog.text
    lines = [getattr(record, "fields", {}) for record in caplog.records]
    assert KEY not in str(lines)
    assert any(line.get("tenant") == "acme" for line in lines)


async def test_a_client_can_lower_its_class_but_not_raise_it(file: Path) -> None:
    async with guarded(
        file, entry(KEY, "acme"), entry(OTHER, "beta", highest_class="high")
    ) as stage:
        for key, expected in ((KEY, "normal"), (OTHER, "high")):
            for how in ({"headers": {"X-Llumnix-Class": "high"}}, {"priority": -5}):
                body: dict[str, Any] = {"model": "m", "prompt": "hi"}
                headers = {**bearer(key), **how.get("headers", {})}  # type: ignore[dict-item]
                body |= {name: value for name, value in how.items() if name != "headers"}
                async with stage.session.post(
                    "/v1/completions", json=body, headers=headers
                ) as response:
                    assert response.status == 200
                assert stage.stubs[0].heard[-1].headers["X-Llumnix-Class"] == expected
                sent = stage.stubs[0].heard[-1].body
                assert sent.get("priority", 0) == (-5 if "priority" in how and key == OTHER else 0)


async def test_streams_are_told_their_limits_and_tokens_are_settled_at_their_end(
    file: Path,
) -> None:
    async with guarded(
        file, entry(KEY, "acme", tokens_per_minute=1000, requests_per_minute=10)
    ) as stage:
        stage.stubs[0].scripts.append(Script(tokens=3))
        body = {"model": "m", "prompt": "hi", "stream": True, "max_tokens": 700}
        async with stage.session.post(
            "/v1/completions", json=body, headers=bearer(KEY)
        ) as response:
            assert response.headers["x-ratelimit-limit-requests"] == "10"
            assert response.headers["x-ratelimit-remaining-requests"] == "9"
            assert int(response.headers["x-ratelimit-remaining-tokens"]) < 310
            await response.read()
        status, headers, _ = await ask(stage, max_tokens=1)
        assert status == 200
        assert int(headers["x-ratelimit-remaining-tokens"]) > 950


async def test_requests_at_once_are_bounded_and_freed_when_a_client_leaves(file: Path) -> None:
    async with guarded(file, entry(KEY, "acme", concurrent_requests=1)) as stage:
        hold = asyncio.Event()

        async def pause() -> None:
            await hold.wait()

        stage.stubs[0].scripts.append(Script(pause=pause))
        body = {"model": "m", "prompt": "hi", "stream": True}
        first = asyncio.create_task(
            stage.session.post("/v1/completions", json=body, headers=bearer(KEY))
        )
        await until(lambda: stage.stubs[0].heard)
        status, headers, _ = await ask(stage)
        assert (status, headers["Retry-After"]) == (429, "1")
        first.cancel()
        async with asyncio.timeout(20):
            while (await ask(stage))[0] == 429:  # noqa: ASYNC110 - what is waited for signals no event
                await asyncio.sleep(0.02)


async def test_a_request_that_was_refused_costs_no_tokens(file: Path) -> None:
    async with guarded(file, entry(KEY, "acme", tokens_per_minute=1000)) as stage:
        for _ in range(5):
            assert (await ask(stage, model="unknown", max_tokens=900))[0] == 404
        assert (await ask(stage, prompt="x" * 8000))[0] == 429
        assert (await ask(stage, max_tokens=900))[0] == 200


async def test_keys_can_be_changed_while_serving(file: Path) -> None:
    async with guarded(file, entry(KEY, "acme", requests_per_minute=2)) as stage:
        assert (await ask(stage))[0] == 200
        store(file, entry(OTHER, "beta"), entry(KEY, "acme", requests_per_minute=2))
        stage.server.read_files()()
        assert (await ask(stage, OTHER))[0] == 200
        assert (await ask(stage))[0] == 200
        assert (await ask(stage))[0] == 429  # the reload gave nobody a fresh minute
        store(file, {"nonsense": []})
        with pytest.raises(ConfigError):
            stage.server.read_files()()
        assert (await ask(stage, OTHER))[0] == 200
        store(file)
        stage.server.read_files()()
        assert (await ask(stage, OTHER))[0] == 401


async def test_tenants_are_counted_apart_but_not_without_bound(file: Path) -> None:
    keys = [f"key-number-{number:03}-0123456789" for number in range(103)]
    entries = [entry(key, f"tenant-{number}") for number, key in enumerate(keys)]
    async with guarded(file, *entries) as stage:
        for key in keys:
            async with stage.session.get("/v1/models", headers=bearer(key)) as response:
                assert response.status == 200
        assert stage.metric("tenant_requests_total", tenant="tenant-0", status="2xx") == 1
        assert stage.metric("tenant_requests_total", tenant="other", status="2xx") == 3


async def test_without_keys_clients_keys_go_to_the_servers_as_before() -> None:
    async with Stage(1) as stage:
        assert (await ask(stage, WRONG))[0] == 200
        assert stage.stubs[0].heard[-1].headers["Authorization"] == f"Bearer {WRONG}"


def test_an_unusable_keys_file_stops_the_start(tmp_path: Path) -> None:
    config = FrontendConfig(port=0, api_keys_file=str(tmp_path / "absent"))
    metrics = FleetMetrics(CollectorRegistry())
    with pytest.raises(ConfigError, match="absent"):
        Service(FleetConfig(), SchedulerConfig(), config, secret=b"s", metrics=metrics)


@pytest.mark.parametrize(
    "path", ["/v1/responses", "/v1/messages", "/v1/embeddings", "/tokenize", "/v1/realtime"]
)
async def test_keys_count_on_every_path(file: Path, path: str) -> None:
    """Also for what is not a completion: its class, its tenant, and a key that stays here."""
    file.write_text(json.dumps([entry(KEY, "acme")]))  # noqa: ASYNC240 - a few bytes
    async with Stage(1, engine=PathServer, api_keys_file=str(file)) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        body = {"model": "m", "input": "hi", "priority": -3}
        async with stage.session.post(path, json=body) as response:
            assert response.status == 401
        assert stub.got == []
        for name, value in (("X-Api-Key", KEY), ("Authorization", f"Bearer {KEY}")):
            headers = {name: value, "X-Llumnix-Class": "high"}
            async with stage.session.post(path, json=body, headers=headers) as response:
                assert response.status != 401
        assert stub.got
        for asked in stub.got:
            assert KEY not in str(asked.headers)
            if path in ("/v1/responses", "/v1/messages", "/v1/embeddings"):
                assert asked.headers["X-Llumnix-Class"] == "normal"


async def test_a_websocket_needs_a_key_too(file: Path) -> None:
    file.write_text(json.dumps([entry(KEY, "acme", concurrent_requests=1)]))  # noqa: ASYNC240
    async with Stage(1, engine=PathServer, api_keys_file=str(file)) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await stage.session.ws_connect("/v1/realtime")
        assert stub.got == []
        for _ in range(2):  # the second shows that the first was counted out
            stub.plays.append(speak(echo))
            async with stage.session.ws_connect("/v1/realtime", headers=bearer(KEY)) as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
            await until(lambda: not stage.fleet.requests.active)
        assert KEY not in str([asked.headers for asked in stub.got])


async def test_only_a_real_preflight_needs_no_key(file: Path) -> None:
    async with guarded(file, entry(KEY, "acme")) as stage:
        async with stage.session.options("/v1/completions") as response:
            assert response.status == 401
        asks = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
        async with stage.session.options("/v1/completions", headers=asks) as response:
            assert response.status != 401
