"""What controls servers, and the admin API, cannot be reached by some odd spelling of a path."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import product
from urllib.parse import unquote

import pytest

from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.paths.table import PathKind, Paths
from tests.llumnix.frontend.paths.served import PathServer
from tests.llumnix.frontend.stage import Stage

CLOSED = (
    *("/sleep", "/wake_up", "/collective_rpc", "/v1/load_lora_adapter", "/reset_prefix_cache"),
    *("/llumnix/fleet", "/llumnix/drain", "/llumnix/instance", "/llumnix/stats", "/start_profile"),
)


def spellings(path: str) -> list[str]:
    """Return ways to write a path that some server or other takes for the same."""
    first, rest = path[1:2], path[2:]
    return [
        path,
        f"{path}/",
        f"/{path}",
        f"//{path}",
        f"/%{ord(first):02x}{rest}",
        f"/%{ord(first):02X}{rest}",
        path.upper(),
        f"/v1/..{path}",
        f"/v1/%2e%2e{path}",
        f"/./{path[1:]}",
        f"/.{path}",
        path.replace("/", "/./"),
        f"/v1{path}",
        f"/v1/v1{path}",
        f"{path};x=1",
        f"{path}%00",
        f"{path}%2f",
        f"{path}?x=/v1/models",
        f"{path}#x",
        f"/v1/models/..{path}",
        f"/%2f{path[1:]}",
        f"\\{path[1:]}",
        f"http://x{path}",
    ]


@pytest.fixture(scope="module")
def paths() -> Paths:
    return Paths(FrontendConfig().allow_paths, FrontendConfig().base_path)


@pytest.mark.parametrize("path", [path for path in CLOSED if not path.startswith("/llumnix")])
def test_no_spelling_of_a_closed_path_is_open(paths: Paths, path: str) -> None:
    for spelled in spellings(path):
        if not spelled.startswith("/"):
            continue
        bare = spelled.partition("?")[0].partition("#")[0]
        for method in ("POST", "GET", "PUT", "DELETE"):
            found = paths.look_up(method, bare)
            closed = found.kind in (PathKind.REFUSED, PathKind.OWN, PathKind.RESPONSE)
            under_v1 = found.path.startswith("/v1/") and not found.known
            assert closed or under_v1, (method, spelled, found)
            assert not (under_v1 and ".." in found.path), spelled


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage(1, engine=PathServer) as running:
        yield running


async def answer_to(stage: Stage, method: str, path: str) -> int:
    host, _, port = stage.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n"
        writer.write(
            f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        async with asyncio.timeout(20):
            answer = b""
            with suppress(ConnectionError):
                while part := await reader.read(65536):
                    answer += part
    finally:
        writer.close()
    return int(answer[9:12])


@pytest.mark.parametrize("path", CLOSED)
async def test_no_spelling_of_a_closed_path_reaches_a_server(stage: Stage, path: str) -> None:
    """But for paths below `/v1/` that mean nothing to a server, however it reads them."""
    stub = stage.stubs[0]
    assert isinstance(stub, PathServer)
    for method, spelled in product(("POST", "GET"), spellings(path)):
        stub.got.clear()
        status = await answer_to(stage, method, spelled)
        for asked in stub.got:
            meant = unquote(asked.path).partition(";")[0].rstrip("/\0")
            assert meant.startswith("/v1/"), spelled
            assert meant not in CLOSED, spelled
            assert ".." not in meant, spelled
        assert stub.got or 400 <= status < 500, (method, spelled, status)
