"""Find out which instance stores a response that this frontend has not seen, by asking all."""

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

import aiohttp
from yarl import URL

from llumnix.frontend.context import ServingContext
from llumnix.instances.instance import Instance

_TIMEOUT_S = 2.0
_AT_MOST = 64


async def search(
    context: ServingContext, response_id: str, headers: Mapping[str, str]
) -> Instance | None:
    """Return the instance that has a response of this id; None if none says so in time.

    `headers` are what the client is known by.
    """
    alive = context.fleet.instances.alive()[:_AT_MOST]
    if len(alive) < 2 or not response_id:
        return None
    asked = [
        asyncio.create_task(_has(context, each, response_id, headers), name=f"search {each.id}")
        for each in alive
    ]
    try:
        for found in asyncio.as_completed(asked):
            instance = await found
            if instance is not None:
                return instance
    finally:
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return None


async def _has(
    context: ServingContext, instance: Instance, response_id: str, headers: Mapping[str, str]
) -> Instance | None:
    url = URL(f"{instance.url}/v1/responses/{quote(response_id, safe='')}", encoded=True)
    try:
        async with context.upstream.session.get(
            url,
            **instance.endpoint.reach(headers),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        ) as response:
            return instance if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
