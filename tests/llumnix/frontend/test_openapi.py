"""Requests made from our own OpenAPI documents: none is answered with an error of ours."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from llumnix.admin.openapi import document
from tests.llumnix.frontend.stage import Stage
from tests.llumnix.frontend.stub import StubInstance

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class CarefulInstance(StubInstance):
    """Refuses what the stub would stumble over, as a real server does."""

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        for name in ("stream_options", "kv_transfer_params"):
            if not isinstance(body.get(name), dict | None):
                error = {"message": f"bad {name}", "type": "BadRequestError", "code": 400}
                return web.json_response({"error": error}, status=400)
        return await super()._complete(http)


@contextmanager
def serving() -> Iterator[str]:
    """Serve a stage from a thread of its own: schemathesis waits for its answers."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stage = Stage(2, engine=CarefulInstance)

    def wait(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(30.0)

    try:
        wait(stage.__aenter__())
        try:
            yield stage.url
        finally:
            wait(stage.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10.0)
        loop.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as base:
        yield base


def operations(*, clients: bool) -> list[Any]:
    loaded = schemathesis.openapi.from_dict(document(clients=clients))
    return [each.ok() for each in loaded.get_all_operations() if isinstance(each, Ok)]


ALL = [*operations(clients=False), *operations(clients=True)]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", ALL, ids=lambda each: each.label)
def test_no_request_is_answered_with_an_error_of_ours(
    url: str, operation: Any, mode: GenerationMode
) -> None:
    """Nor with a status or a body that the document does not promise."""

    @EXAMPLES
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case[Any]) -> None:
        case.call_and_validate(base_url=url, checks=CHECKS, timeout=20)

    check()


async def test_the_document_has_every_route_of_the_admin_api_and_no_other() -> None:
    async with Stage(1) as stage:
        routes = {
            (each.method.lower(), each.path.replace(":(?s:.+)", ""))
            for each in stage.server._backing.admin_routes()
            if each.method != "*"
        }
        async with stage.session.get("/llumnix/openapi.json") as response:
            told = await response.json()
    assert routes == {
        (method, path) for path, operations in told["paths"].items() for method in operations
    }
