"""Identify a server."""

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from llumnix.instances.condition.trouble import Cause, ContactFailed
from llumnix.instances.endpoints.endpoint import Endpoint
from llumnix.instances.exposition import LLUMLET, info, is_vllm
from llumnix.instances.instance import VLLM, Identity, InstanceKind
from policies.types import InstanceId

_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_PAGE_LIMIT_BYTES = 16 << 20
_OURS = {"instance_id", "control_port"}

Models = tuple[Mapping[str, Any], ...]


async def discover(session: aiohttp.ClientSession, endpoint: Endpoint, secret: bytes) -> Identity:
    """Identify a server: one with the plugin says so, any other counts as untouched.

    The emulated engine has an endpoint for it; vLLM, whose endpoints are its own, says it among its
    metrics. Without the fleet's secret a server with the plugin cannot take orders, and counts as
    untouched. The caller bounds the time. Raises aiohttp.ClientError if the server does not
    respond, ContactFailed if it does not speak OpenAI's API.
    """
    models = await fetch_models(session, endpoint)
    told = await _describe(session, endpoint) if secret else {}
    # A gateway or web UI may answer 200 to everything: only our own keys tell.
    if told.keys() >= _OURS:
        return _plugged(told, models, endpoint)
    page = await fetch_metrics(session, endpoint)
    llumlet = info(page, LLUMLET) if secret else None
    address = InstanceId(endpoint.address.name)
    if llumlet is not None:
        told = {**llumlet, "instance_id": llumlet.get("instance_id") or address}
        return _plugged(told, models, endpoint)
    engine = VLLM if is_vllm(page) else ""
    return Identity(instance_id=address, kind=InstanceKind.UNTOUCHED, models=models, engine=engine)


async def _describe(session: aiohttp.ClientSession, endpoint: Endpoint) -> dict[str, Any]:
    """Return how a server with a llumlet describes itself; {} from any other."""
    try:
        async with ask(session, endpoint, "/llumnix/instance") as response:
            return _object(await read(response)) if response.status == 200 else {}
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ContactFailed):
        return {}  # some close the connection on a path that they do not know


async def fetch_models(session: aiohttp.ClientSession, endpoint: Endpoint) -> Models:
    """Return the models that a server serves. Raises like `discover`."""
    async with ask(session, endpoint, "/v1/models") as response:
        _check(response, endpoint)
        models = _object(await read(response)).get("data")
    if not isinstance(models, list):
        raise ContactFailed(Cause.NOT_OPENAI, "GET /v1/models returned no list of models")
    return tuple(model for model in models if isinstance(model, dict))


async def fetch_metrics(session: aiohttp.ClientSession, endpoint: Endpoint) -> str:
    """Return a server's metrics page, "" if it has none to read. Raises aiohttp.ClientError."""
    try:
        async with ask(session, endpoint, "/metrics") as response:
            return (await read(response)).decode(errors="replace") if response.status == 200 else ""
    except (aiohttp.ClientPayloadError, ContactFailed):
        return ""  # garbled or endless: its load is estimated, as without a page


def ask(
    session: aiohttp.ClientSession, endpoint: Endpoint, path: str
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """Get a path of a server, with its key and its TLS settings."""
    return session.get(
        endpoint.url + path,
        **endpoint.reach({}),
        allow_redirects=False,
    )


async def read(response: aiohttp.ClientResponse) -> bytes:
    """Read a whole answer. Raises ContactFailed for one that is far too long."""
    parts: list[bytes] = []
    left = _PAGE_LIMIT_BYTES
    async for part in response.content.iter_any():
        parts.append(part)
        left -= len(part)
        if left < 0:
            what = f"GET {response.url.path} returned more than {_PAGE_LIMIT_BYTES} bytes"
            raise ContactFailed(Cause.NOT_OPENAI, what)
    return b"".join(parts)


def _check(response: aiohttp.ClientResponse, endpoint: Endpoint) -> None:
    """Raise ContactFailed unless a server has answered a question as OpenAI's API would."""
    status, what = response.status, f"GET /v1/models returned {response.status}"
    if status == 200:
        return
    if status in (401, 403):
        key = "with our API key" if endpoint.key else "without an API key"
        raise ContactFailed(Cause.UNAUTHORIZED, f"{what} {key}")
    if 300 <= status < 400:
        there = response.headers.get("Location", "")
        raise ContactFailed(
            Cause.NOT_OPENAI, f"{what}, to {there}", "give the URL that it redirects to"
        )
    if status >= 500:
        raise ContactFailed(Cause.SILENT, what, "it may still be starting; check its log")
    raise ContactFailed(Cause.NOT_OPENAI, what)


def _object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; {} if it is anything else."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _plugged(told: Mapping[str, Any], models: Models, endpoint: Endpoint) -> Identity:
    host = str(told.get("control_host", ""))
    try:
        return Identity(
            instance_id=InstanceId(str(told["instance_id"])),
            kind=InstanceKind.PLUGGED,
            models=models,
            capacity_tokens=int(told["capacity_tokens"]),
            control_host=endpoint.address.host if host in _WILDCARDS else host,
            control_port=int(told["control_port"]),
            speed=float(told.get("speed", 1.0)),
            engine=str(told.get("engine", "")),
            layout=str(told.get("layout", "")),
            protocol=int(told.get("protocol", 1)),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ContactFailed(
            Cause.NOT_OPENAI,
            f"its llumlet's description of itself lacks or garbles {error}",
            "run the same version of Llumnix on both sides",
        ) from error
