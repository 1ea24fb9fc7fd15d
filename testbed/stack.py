"""Servers, a frontend over them, and its admin client, in one context."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from llumnix.processes.frontend_process import launched_frontend
from llumnix.testbed.servers import ServerOptions, VllmServer, launched_vllm
from testbed.moves import AdminSide

_LEAK_PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs: the servers, and the fleet they are."""

    servers: list[VllmServer]
    fleet: AdminSide

    async def leaked(self) -> dict[str, float]:
        """Return which living servers still hold KV blocks, as a share, once nothing runs."""
        held: dict[str, float] = {}
        for _ in range(int(_LEAK_PATIENCE_S / 0.2)):
            pages = {one.name: await self._page(one) for one in self.servers if one.alive}
            held = {name: share for name, page in pages.items() if (share := _held(page))}
            if not held:
                break
            await asyncio.sleep(0.2)
        return held

    async def counted(self, metric: str) -> float:
        """Sum a counter of vLLM over the living servers."""
        pages = [await self._page(server) for server in self.servers if server.alive]
        return sum(sum(_values(page, metric)) for page in pages)

    async def _page(self, server: VllmServer) -> str:
        async with self.fleet.session.get(f"{server.url}/metrics", ssl=False) as answer:
            return await answer.text()


def _held(page: str) -> float:
    running = _values(page, "vllm:num_requests_running") + _values(
        page, "vllm:num_requests_waiting"
    )
    return sum(_values(page, "vllm:kv_cache_usage_perc")) + sum(running)


def _values(page: str, metric: str) -> list[float]:
    """Read the samples of a metric off a page in Prometheus' text format."""
    return [
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith((f"{metric}{{", f"{metric} "))
    ]


@asynccontextmanager
async def launched_stack(
    options: Sequence[ServerOptions],
    log_dir: Path | None = None,
    serve_arguments: Sequence[str] = ("--policy=round-robin", "--no-migration"),
) -> AsyncIterator[Stack]:
    """Run servers and a frontend within the context. Nothing moves except by hand, unless asked to.

    Raises LaunchError when one of them does not start, TimeoutError when they do not link up.
    """
    folder = log_dir or Path(tempfile.mkdtemp(prefix="llumnix-vllm-"))
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / "secret"
    secret.write_text(options[0].secret)
    named = [
        replace(each, plugin_settings={"instance_id": f"vllm-{number}", **each.plugin_settings})
        for number, each in enumerate(options)
    ]
    async with launched_vllm(named, folder) as servers:
        instances = [f"--instance={server.url}" for server in servers]
        serving = ["--port=0", f"--secret-file={secret}", *instances, *serve_arguments]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with (
            launched_frontend(serving, folder) as url,
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            AdminSide(session, url) as fleet,
        ):
            await fleet.up(sum(each.plugin for each in options))
            yield Stack(servers, fleet)
