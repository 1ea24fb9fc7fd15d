"""Web pages may read our own answers if they may read the servers'."""

from typing import Any

import pytest
from aiohttp import web

from tests.llumnix.frontend.paths.served import PathServer, answer
from tests.llumnix.frontend.stage import Stage

PAGE = "https://chat.example"
ALLOW = "Access-Control-Allow-Origin"


class CorsServer(PathServer):
    """A server that lets one origin read its answers, as FastAPI does when told to."""

    async def _models(self, http: web.Request) -> web.Response:
        response = await super()._models(http)
        if http.headers.get("Origin") == PAGE:
            response.headers[ALLOW] = PAGE
            response.headers["Access-Control-Allow-Credentials"] = "true"
        return response


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/none", 404),
        ("POST", "/sleep", 403),
        ("POST", "/v1/chat/completions", 400),
        ("POST", "/v1/embeddings", 404),
    ],
)
async def test_an_answer_of_ours_can_be_read_where_a_servers_can(
    method: str, path: str, status: int
) -> None:
    body = b'{"model":"none"}' if "embed" in path else b"nonsense"
    headers = {"Origin": PAGE, "Content-Type": "application/json"}
    async with Stage(1, engine=CorsServer) as stage:
        async with stage.session.request(method, path, data=body, headers=headers) as response:
            assert response.status == status
            assert response.headers[ALLOW] == PAGE
            assert "Origin" in response.headers["Vary"]
        headers["Origin"] = "https://evil.example"
        async with stage.session.request(method, path, data=body, headers=headers) as response:
            assert ALLOW not in response.headers


async def test_what_no_page_may_read_is_not_opened() -> None:
    async with Stage(1, engine=CorsServer) as stage:
        for path in ("/llumnix/fleet", "/metrics"):
            async with stage.session.get(path, headers={"Origin": PAGE}) as response:
                assert ALLOW not in response.headers


async def test_a_preflight_is_the_servers_to_answer() -> None:
    async with Stage(1, engine=CorsServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        allowed: dict[str, Any] = {"Access_Control_Allow_Origin": "*"}
        stub.plays.append(answer(200, "OK", **allowed))
        asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        async with stage.session.options("/v1/chat/completions", headers=asked) as response:
            assert response.status == 200
            assert response.headers[ALLOW] == "*"
        assert stub.got[0].method == "OPTIONS"


async def test_configured_origins_are_answered_here() -> None:
    async with Stage(1, engine=CorsServer, cors_origins=(PAGE,)) as stage:
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        async with stage.session.options("/v1/responses", headers=asked) as response:
            assert response.status == 200
            assert response.headers[ALLOW] == PAGE
            assert response.headers["Access-Control-Allow-Headers"] == "authorization"
        async with stage.session.post("/v1/responses", json={}, headers=asked) as response:
            assert response.headers[ALLOW] == PAGE
        asked["Origin"] = "https://evil.example"
        async with stage.session.options("/v1/responses", headers=asked) as response:
            assert response.status == 400
            assert ALLOW not in response.headers


async def test_the_fleet_answers_for_all_under_a_mounting_prefix() -> None:
    async with Stage(2, engine=CorsServer, base_path="/llm") as stage:
        for path in ("/llm/v1/models", "/v1/models/", "/llm/v1/models/m", "/llm/ping", "/load"):
            async with stage.session.get(path) as response:
                assert response.status == 200, path
