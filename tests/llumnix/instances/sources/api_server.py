"""A fake Kubernetes API server: lists and watches of pods and EndpointSlices, with a token."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

TOKEN = "a-token-for-tests"


def pod(name: str, ip: str, *, ready: bool = True, **more: Any) -> dict[str, Any]:
    """Make a pod with one container whose ports are `metrics` and `http`."""
    ports = [{"name": "metrics", "containerPort": 9}, {"name": "http", "containerPort": 8000}]
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", **more},
        "spec": {"containers": [{"name": "vllm", "ports": ports}]},
        "status": {"podIP": ip, "conditions": [condition]},
    }


def endpoint_slice(
    name: str, ready: dict[str, bool | None], ports: dict[str, int] | None = None
) -> dict[str, Any]:
    """Make an EndpointSlice of addresses that are ready, not, or do not say."""
    endpoints = [
        {"addresses": [ip], "conditions": {} if each is None else {"ready": each}}
        for ip, each in ready.items()
    ]
    known = [{"name": key, "port": port} for key, port in (ports or {"http": 8000}).items()]
    return {"metadata": {"name": name}, "endpoints": endpoints, "ports": known}


class ApiServer:
    """Holds the objects of one collection; a change is told to those who watch."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 1
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.url = ""
        self._watching: list[asyncio.Queue[dict[str, Any] | None]] = []
        self._runner: web.AppRunner | None = None

    @property
    def watchers(self) -> int:
        return len(self._watching)

    def put(self, *objects: dict[str, Any]) -> None:
        """Add or change objects."""
        for each in objects:
            name = each["metadata"]["name"]
            kind = "MODIFIED" if name in self.objects else "ADDED"
            self.objects[name] = each
            self.tell({"type": kind, "object": each})

    def delete(self, name: str) -> None:
        """Remove an object."""
        self.tell({"type": "DELETED", "object": self.objects.pop(name)})

    def tell(self, event: dict[str, Any] | None) -> None:
        """Send an event to those who watch; None ends their watches."""
        self.version += 1
        for each in self._watching:
            each.put_nowait(event)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def kubeconfig(self, folder: Path) -> str:
        """Write the file with which kubectl would reach it; return its path."""
        path = folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return str(path)

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        self.asked.append((http.path, dict(http.query)))
        if self.status != 200 or http.headers.get("Authorization") != f"Bearer {TOKEN}":
            told = {"kind": "Status", "message": "you may not list this", "code": 403}
            return web.json_response(told, status=self.status if self.status != 200 else 403)
        if http.query.get("watch") == "true":
            return await self._watch(http)
        items = list(self.objects.values())
        return web.json_response(
            {"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items}
        )

    async def _watch(self, http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(http)
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._watching.append(events)
        try:
            while (event := await events.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self._watching.remove(events)
        return response


@asynccontextmanager
async def api_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[ApiServer]:
    """Run such a server."""
    server = ApiServer()
    await server.start(tls)
    try:
        yield server
    finally:
        await server.stop()
