"""Bodies at the clients' port: packed ones, large ones, too many of them, broken ones."""

import asyncio
import gzip
import io
import json
import zlib
from typing import Any

import pytest

from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script

BODY = {"model": "m", "prompt": "hi", "stream": False}


async def post(
    stage: Stage, data: bytes, path: str = "/v1/completions", **headers: str
) -> tuple[int, bytes]:
    named = {"Content-Type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    async with stage.session.post(path, data=io.BytesIO(data), headers=named) as response:
        return response.status, await response.read()


def code(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["error"]["code"]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_packed_bodies_arrive_unpacked(encoding: str, pack: Any) -> None:
    raw = json.dumps(BODY).encode()
    async with Stage(1) as stage:
        status, _ = await post(stage, pack(raw), Content_Encoding=encoding)
        assert status == 200
        heard = stage.stubs[0].heard[-1]
        assert heard.body["prompt"] == "hi"
        assert "Content-Encoding" not in heard.headers


async def test_on_any_path() -> None:
    async with Stage(1) as stage:
        status, echoed = await post(
            stage, gzip.compress(b"some bytes"), "/v1/echo/x", Content_Encoding="gzip"
        )
        assert (status, echoed) == (207, b"some bytes")


async def test_what_cannot_be_unpacked_is_the_clients_error() -> None:
    async with Stage(1) as stage:
        packed = gzip.compress(b"x" * 100)
        assert code(await post(stage, b"no gzip", Content_Encoding="gzip")) == (400, "invalid_body")
        assert code(await post(stage, packed[:-9], Content_Encoding="gzip")) == (
            400,
            "invalid_body",
        )
        assert code(await post(stage, packed, Content_Encoding="br")) == (415, "bad_encoding")
        bomb = gzip.compress(bytes(64 * 2**20))
        assert code(await post(stage, bomb, Content_Encoding="gzip")) == (413, "request_too_large")
        assert stage.stubs[0].heard == []


async def test_a_body_beyond_the_limit_is_refused_whether_or_not_it_says_so() -> None:
    async with Stage(1, body_limit_bytes=1000) as stage:
        assert code(await post(stage, b"x" * 1001)) == (413, "request_too_large")

        async def in_chunks() -> Any:
            for _ in range(20):
                yield b"x" * 100

        async with stage.session.post("/v1/completions", data=in_chunks()) as response:
            assert response.status == 413


async def test_a_heavy_body_is_forwarded_byte_for_byte() -> None:
    """It is parsed by a helper; only the documented edits are made."""
    ids = list(range(30_000))
    raw = json.dumps({**BODY, "prompt": ids}, indent=1).encode()
    async with Stage(1) as stage:
        status, _ = await post(stage, raw)
        assert status == 200
        sent = stage.stubs[0].heard[-1]
        assert sent.raw.startswith(raw.rstrip()[:-1].rstrip())
        assert sent.body["prompt"] == ids


async def test_a_heavy_body_that_is_wrong_is_refused_as_a_light_one_is() -> None:
    async with Stage(1) as stage:
        assert code(await post(stage, b"[" * 200_000)) == (400, "invalid_json")
        assert code(await post(stage, b'{"prompt": "' + b"x" * 2**21)) == (400, "invalid_json")


async def test_bytes_bound_the_queue_and_come_back() -> None:
    async with Stage(1, queue_limit_bytes=100_000) as stage:
        hold = asyncio.Event()

        async def pause() -> None:
            await hold.wait()

        large = json.dumps({**BODY, "prompt": "x" * 60_000, "stream": True}).encode()
        stage.stubs[0].scripts.append(Script(pause=pause))
        first = asyncio.create_task(post(stage, large))
        await until(lambda: stage.stubs[0].heard)
        async with stage.session.post("/v1/completions", data=large) as response:
            assert response.status == 503
            assert response.headers["Retry-After"]
        hold.set()
        assert (await first)[0] == 200
        assert (await post(stage, large))[0] == 200


async def test_a_client_that_leaves_gives_its_bytes_back() -> None:
    async with Stage(1, queue_limit_bytes=100_000) as stage:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{"
        host, _, port = stage.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        await writer.drain()
        intake = stage.server.intake
        await until(lambda: intake.budget.held_bytes == 60_000)
        writer.transport.abort()
        await until(lambda: intake.budget.held_bytes == 0)
