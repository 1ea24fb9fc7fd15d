"""A real frontend over real emulated engines, each a process, and a client that checks tokens."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from llumnix.emulator.model.answer import expected_output
from llumnix.processes.frontend_process import launched_frontend


@dataclass(slots=True)
class Client:
    """Talks to one frontend."""

    session: aiohttp.ClientSession
    url: str

    async def get(self, path: str) -> Any:
        async with self.session.get(path if "://" in path else self.url + path) as answer:
            return await answer.json()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        async with self.session.post(self.url + path, json=body) as answer:
            return await answer.json()

    async def stats(self) -> dict[str, dict[str, Any]]:
        """The statistics of every engine that answers, by instance id."""
        rows = (await self.get("/llumnix/fleet"))["instances"]
        return {
            row["id"]: await self.get(f"{row['url']}/llumnix/stats")
            for row in rows
            if row["state"] != "down"
        }

    async def settled(self, condition: Any, timeout_s: float = 30.0) -> bool:
        """Wait until an async condition holds; False when it does not in time."""
        async with asyncio.timeout(timeout_s + 5):
            for _ in range(int(timeout_s / 0.05)):
                if await condition():
                    return True
                await asyncio.sleep(0.05)
        return False


async def runs_something(client: Client, instance_id: str) -> bool:
    """Whether requests run at an instance."""
    return bool((await client.stats())[instance_id]["running"])


@dataclass(slots=True)
class Answer:
    """What one streaming request gave."""

    prompt: list[int]
    max_tokens: int
    token_ids: list[int] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    error: str = ""
    done: bool = False
    usage: dict[str, int] | None = None

    @property
    def right(self) -> bool:
        """The stream ended as it should, and every token is the one it must be."""
        expected = expected_output(self.prompt, self.max_tokens)
        return self.done and not self.error and tuple(self.token_ids) == tuple(expected)


async def ask(client: Client, seed: int, prompt_tokens: int, max_tokens: int) -> Answer:
    """Stream one completion to its end."""
    prompt = [int(one) for one in np.random.default_rng(seed).integers(256, 4096, prompt_tokens)]
    answer = Answer(prompt, max_tokens)
    body = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }
    async with client.session.post(f"{client.url}/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        try:
            async for line in response.content:
                _read(answer, line)
        except aiohttp.ClientError as error:
            answer.error = repr(error)
    return answer


def _read(answer: Answer, line: bytes) -> None:
    if line.startswith(b"data: [DONE]"):
        answer.done = True
    elif line.startswith(b"data: "):
        event = json.loads(line[6:])
        answer.error = str(event.get("error", answer.error))
        answer.ids.add(event.get("id", ""))
        answer.usage = event.get("usage") or answer.usage
        for choice in event.get("choices", ()):
            answer.token_ids += choice.get("token_ids") or ()


@asynccontextmanager
async def fleet(instances: int, speed: float, *arguments: str) -> AsyncIterator[Client]:
    """Start a frontend with emulated engines, and a client to it."""
    flags = ["--port=0", f"--emulate={instances}", f"--speed={speed:g}", *arguments]
    timeout = aiohttp.ClientTimeout(total=None, sock_read=30)
    async with (
        launched_frontend(flags) as url,
        aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0, force_close=True)
        ) as session,
    ):
        yield Client(session, url)
