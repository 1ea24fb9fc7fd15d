"""Real emulator servers on free ports, and ways to ask them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.main import RunningEmulator, emulator
from migration.config import MigrationConfig
from migration.links.auth import sign_resume
from policies.types import RequestId
from tests.llumnix.emulator.engines import some_prompt

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPT = some_prompt(40)
MESSAGES = [{"role": "user", "content": "say something"}]
SECRET = b"a secret of tests"
FAST = 1_000.0
ENDLESS = 1e-6  # a step takes many minutes: no test sees its end


@dataclass
class Answer:
    """An answer, however it came."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | None = None
    usage: dict[str, int] | None = None
    chunks: list[dict[str, Any]] = field(default_factory=list)


class Server:
    """A running emulator, and a client of it."""

    def __init__(self, running: RunningEmulator, session: aiohttp.ClientSession) -> None:
        self.running = running
        self.instance = running.instance
        self.session = session

    async def freeze(self) -> None:
        """From here on, no step ends any more."""
        loop = self.running.loop
        if loop._speed > ENDLESS:
            loop._speed = ENDLESS
            steps = loop.lag.steps
            await _until(lambda: loop.lag.steps > steps)

    async def post(
        self, path: str, body: object, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask, and read a JSON answer."""
        async with self.session.post(path, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, str]:
        """Get a page."""
        async with self.session.get(path) as response:
            return response.status, await response.text()

    async def whole(self, path: str, body: dict[str, Any], **headers: str) -> Answer:
        """Ask for an answer in one piece."""
        status, answer = await self.post(path, {**body, "stream": False}, headers)
        assert status == 200, answer
        choice = answer["choices"][0]
        message = choice.get("message")
        return Answer(
            text=choice["text"] if message is None else message["content"],
            token_ids=choice.get("token_ids", []),
            finish_reason=choice["finish_reason"],
            stop_reason=choice["stop_reason"],
            usage=answer["usage"],
            chunks=[answer],
        )

    async def streamed(self, path: str, body: dict[str, Any], **headers: str) -> Answer:
        """Ask for a stream, and put it together."""
        body = {**body, "stream": True}
        async with self.session.post(path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert response.headers["Content-Type"].startswith("text/event-stream")
            return put_together((await response.read()).decode())


def put_together(stream: str) -> Answer:
    """Read a stream's events; it must end with `[DONE]`."""
    events = stream.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    answer = Answer(chunks=[json.loads(event.removeprefix("data: ")) for event in events[:-2]])
    for chunk in answer.chunks:
        if not chunk["choices"]:
            answer.usage = chunk["usage"]
            continue
        (choice,) = chunk["choices"]
        assert answer.finish_reason is None, "nothing follows the finish"
        answer.text += choice["text"] if "text" in choice else choice["delta"]["content"]
        answer.token_ids += choice.get("token_ids", [])
        answer.finish_reason = choice["finish_reason"]
        answer.stop_reason = choice["stop_reason"]
    return answer


@asynccontextmanager
async def serving(
    secret: bytes = SECRET, speed: float = FAST, **changes: object
) -> AsyncIterator[Server]:
    """Run a toy emulator for the length of a test; at its end nothing is held any more."""
    options: dict[str, object] = {"preset": "toy", "model": "toy", "speed": speed, **changes}
    config = EmulatorConfig(**options)  # type: ignore[arg-type]
    async with (
        emulator(config, secret, MigrationConfig(cooldown_s=0.0)) as running,
        aiohttp.ClientSession(running.url, timeout=aiohttp.ClientTimeout(20)) as session,
    ):
        yield Server(running, session)
        assert not running.stepping.done(), "the engine failed"


def resume_field(
    request_id: str,
    migration_id: str | None,
    output_token_ids: list[int] | None,
    secret: bytes = SECRET,
    *,
    early: bool = False,
) -> dict[str, Any]:
    """The signed field a frontend adds to the original body."""
    fields: dict[str, Any] = {
        "request_id": request_id,
        "migration_id": migration_id,
        "output_token_ids": output_token_ids,
        "issued_at": time.time(),
        "early": early,
    }
    return {"kv_transfer_params": {"llumnix": sign_resume(secret, fields)}}


def body_for(path: str, **more: object) -> dict[str, object]:
    """A request of 20 tokens, with their ids."""
    base: dict[str, object] = {"max_tokens": 20, "ignore_eos": True, "return_token_ids": True}
    asked = {"prompt": PROMPT} if path == COMPLETIONS else {"messages": MESSAGES}
    return {**base, **asked, **more}


async def arrival(server: Server, count: int = 1) -> None:
    """Wait until so many requests are on the engine."""
    await _until(lambda: len(server.instance.requests) >= count)


async def departure(server: Server) -> None:
    """Wait until nothing is on the engine."""
    await _until(lambda: not server.instance.requests)


async def progress(server: Server, request_id: str, tokens: int) -> None:
    """Wait until a request has so many output tokens."""
    request = server.instance.requests[RequestId(request_id)]
    await _until(lambda: request.output_tokens >= tokens)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - conditions, not events, are what tests ask for
            await asyncio.sleep(0.001)
