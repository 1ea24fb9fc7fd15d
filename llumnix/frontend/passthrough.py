"""Forward requests to all other paths to an instance, unchanged."""

import itertools
import json
from collections.abc import Iterable, Iterator

import aiohttp
from aiohttp import web
from yarl import URL

from llumnix.frontend.context import ServingContext
from llumnix.frontend.request.headers import end_to_end, to_instance_as_is
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance

_BODILESS = ("GET", "HEAD", "OPTIONS", "DELETE")


class Passthrough:
    """Forwards any method and path, streaming both ways, to the instances in turn."""

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self._turns: Iterator[int] = itertools.count()

    async def forward(self, http: web.Request) -> web.StreamResponse:
        """Forward a request, in a single attempt: its body can be read only once."""
        instances = self._context.fleet.instances
        up = instances.up() or instances.alive()
        if not up:
            return Refusal(503, "no instance is up", "no_instance", retry_after_s=1).response()
        instance = up[next(self._turns) % len(up)]
        has_body = http.can_read_body or http.method not in _BODILESS
        response: web.StreamResponse | None = None
        try:
            async with self._context.upstream.session.request(
                http.method,
                URL(instance.url + http.raw_path, encoded=True),
                headers=instance.endpoint.headers(to_instance_as_is(http.headers)),
                ssl=instance.endpoint.verified_by,
                server_hostname=instance.endpoint.server_name or None,
                data=http.content.iter_any() if has_body else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=self._context.config.connect_timeout_s,
                    sock_read=self._context.config.answer_timeout_s,
                ),
            ) as upstream:
                response = web.StreamResponse(
                    status=upstream.status, headers=end_to_end(upstream.headers)
                )
                await response.prepare(http)
                async for data in upstream.content.iter_any():
                    await response.write(data)
                await response.write_eof()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if response is not None:
                raise ConnectionResetError(f"{instance.id} broke off: {error!r}") from error
            return Refusal(
                502, f"{instance.id} does not respond: {error!r}", "bad_gateway"
            ).response()
        return response


def merged_models(instances: Iterable[Instance]) -> web.Response:
    """Return the models of all instances, each once, as the first instance that has it lists it."""
    merged: dict[object, object] = {}
    for instance in instances:
        for model in instance.models:
            merged.setdefault(model.get("id"), dict(model))
    body = json.dumps({"object": "list", "data": list(merged.values())})
    return web.Response(text=body, content_type="application/json")
