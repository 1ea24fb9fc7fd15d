"""Identify a server."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from llumnix.instances.endpoint import Endpoint
from llumnix.instances.exposition import LLUMLET, info, is_vllm
from llumnix.instances.instance import VLLM, Identity, InstanceKind
from policies.types import InstanceId

_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


class NotUnderstood(Exception):  # noqa: N818 - what the server said, not what we did
    """The server responds, but not as an OpenAI-compatible server would."""


async def discover(session: aiohttp.ClientSession, endpoint: Endpoint, secret: bytes) -> Identity:
    """Identify a server: one with the plugin says so, any other counts as untouched.

    The emulated engine has an endpoint for it; vLLM, whose endpoints are its own, says it among its
    metrics. Without the fleet's secret a server with the plugin cannot take orders, and counts as
    untouched. The caller bounds the time. Raises aiohttp.ClientError if the server does not
    respond, NotUnderstood if it does not speak OpenAI's API.
    """
    models = await fetch_models(session, endpoint)
    if secret:
        async with ask(session, endpoint, "/llumnix/instance") as response:
            if response.status == 200:
                return _plugged(await response.json(), models, endpoint)
    async with ask(session, endpoint, "/metrics") as response:
        page = await response.text() if response.status == 200 else ""
    llumlet = info(page, LLUMLET) if secret else None
    address = InstanceId(endpoint.address.name)
    if llumlet is not None:
        told = {**llumlet, "instance_id": llumlet.get("instance_id") or address}
        return _plugged(told, models, endpoint)
    engine = VLLM if is_vllm(page) else ""
    return Identity(instance_id=address, kind=InstanceKind.UNTOUCHED, models=models, engine=engine)


async def fetch_models(
    session: aiohttp.ClientSession, endpoint: Endpoint
) -> tuple[Mapping[str, Any], ...]:
    """Return the models that a server serves. Raises like `discover`."""
    async with ask(session, endpoint, "/v1/models") as response:
        if response.status != 200:
            raise NotUnderstood(f"GET /v1/models returned {response.status}")
        try:
            data = (await response.json(content_type=None))["data"]
            return tuple(model for model in data if isinstance(model, dict))
        except (ValueError, KeyError, TypeError) as error:
            raise NotUnderstood(f"GET /v1/models returned no list of models: {error!r}") from error


def ask(
    session: aiohttp.ClientSession, endpoint: Endpoint, path: str
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """Get a path of a server, with its key and its TLS settings."""
    return session.get(endpoint.url + path, headers=endpoint.headers({}), ssl=endpoint.verified_by)


def _plugged(
    told: Mapping[str, Any], models: tuple[Mapping[str, Any], ...], endpoint: Endpoint
) -> Identity:
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
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotUnderstood(
            f"its llumlet's description of itself lacks or garbles {error}"
        ) from error
