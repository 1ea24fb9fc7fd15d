"""A running `llumnix serve --workers 2` before emulated instances, and its processes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from llumnix.processes.launch import stop_process

SOON_S = 30.0


class Cluster:
    """The supervisor's process, its URLs and its log."""

    def __init__(
        self, process: asyncio.subprocess.Process, told: dict[str, str], log: Path
    ) -> None:
        self.process, self.url, self.admin_url = process, told["url"], told["admin_url"]
        self.log_path = log
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True)
        )

    async def children(self) -> list[int]:
        """Return the ids of the scheduler's process and the workers, in the order of birth."""
        found = await asyncio.to_thread(_children, self.process.pid)
        return sorted(found)

    async def children_when(self, count: int) -> list[int]:
        """Return them as soon as there are so many, the one that stands by included."""
        async with asyncio.timeout(SOON_S):
            while len(found := await self.children()) < count:  # noqa: ASYNC110 - as below
                await asyncio.sleep(0.05)
        return found

    async def logged(self, text: str, times: int = 1) -> None:
        """Wait until the log says this so often."""
        async with asyncio.timeout(SOON_S):
            while self.log().count(text) < times:  # noqa: ASYNC110 - a file signals no event
                await asyncio.sleep(0.05)

    def log(self) -> str:
        return self.log_path.read_text()

    async def get(self, path: str) -> Any:
        """Return what the admin API says, as soon as it says something."""
        async with asyncio.timeout(SOON_S):
            while True:
                async with self.session.get(self.url + path) as response:
                    if response.status == 200:
                        return await response.json(content_type=None)
                await asyncio.sleep(0.1)

    async def requests_when(self, fits: Callable[[list[Any]], object]) -> list[Any]:
        """Return the list of requests, as soon as it is such a one."""
        async with asyncio.timeout(SOON_S):
            while True:
                rows: list[Any] = await self.get("/llumnix/requests")
                if fits(rows):
                    return rows
                await asyncio.sleep(0.05)

    async def order(self, path: str, **what: object) -> None:
        """Give an order to the admin API."""
        async with self.session.post(self.url + path, json=what) as response:
            assert response.status == 200, await response.text()

    async def ended(self) -> float:
        """Return how many requests have ended, by the metrics page."""
        async with asyncio.timeout(SOON_S):
            while True:
                async with self.session.get(self.url + "/metrics") as response:
                    if response.status == 200:
                        page = await response.text()
                        break
                await asyncio.sleep(0.1)
        lines = [each for each in page.splitlines() if each.startswith("llumnix_requests_total{")]
        return sum(float(each.rpartition(" ")[2]) for each in lines)

    async def stream(self, prompt: str, max_tokens: int, request_id: str = "") -> str | None:
        """Return a stream's text; None if it broke."""
        asked = {"prompt": prompt, "max_tokens": max_tokens, "stream": True}
        headers = {"X-Request-Id": request_id} if request_id else {}
        text, done, url = "", False, f"{self.url}/v1/completions"
        try:
            async with self.session.post(url, json=asked, headers=headers) as response:
                assert response.status == 200, await response.text()
                async for line in response.content:
                    done = done or line.startswith(b"data: [DONE]")
                    if line.startswith(b"data: {"):
                        text += json.loads(line[6:])["choices"][0]["text"]
        except aiohttp.ClientError:
            return None
        return text if done else None


def _children(parent: int) -> list[int]:
    found = []
    for each in Path("/proc").iterdir():
        try:
            command = (each / "cmdline").read_bytes()
            status = (each / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(status[1]) == parent and b"llumnix.workers" in command:
            found.append(int(each.name))
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def cluster(folder: Path, arguments: Sequence[str] = ()) -> AsyncIterator[Cluster]:
    log = folder / "log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llumnix", "serve", "--port", "0", "--announce"),
            *("--workers", "2", "--log-level", "info", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(2 * SOON_S):
            line = await process.stdout.readline()
        assert line, log.read_text()
        running = Cluster(process, json.loads(line), log)
        async with running.session:
            yield running
    finally:
        await stop_process(process, SOON_S)
