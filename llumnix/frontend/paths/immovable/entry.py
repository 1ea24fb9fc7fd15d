"""Read a request for generation that stays where it begins, and send it on its way.

Its body is forwarded as it is, whatever it holds: the server judges it. Only a few members are
read, without parsing it.
"""

import time
from collections.abc import Mapping

from aiohttp import web

from llumnix.fleet.requests import ActiveRequest
from llumnix.frontend.access.door import own_visit
from llumnix.frontend.context import ServingContext
from llumnix.frontend.paths.body import Body, BrokenBody
from llumnix.frontend.paths.immovable.relay import GenerationRelay
from llumnix.frontend.paths.immovable.search import search
from llumnix.frontend.paths.immovable.stored import StoredResponses
from llumnix.frontend.paths.peek import member
from llumnix.frontend.paths.table import Destination
from llumnix.frontend.request.body import with_member
from llumnix.frontend.request.headers import identity
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest, class_of, is_urgent
from llumnix.frontend.serving import Facts, arrived, inadmissible, tracked, turned_away
from llumnix.instances.instance import Instance

_BYTES_PER_TOKEN = 4
_OUTPUT_LIMITS = ("max_output_tokens", "max_tokens", "max_completion_tokens")
_IMMOVABLE = "a stream of this API cannot be joined from two instances"


class Immovable:
    """Serves generation that is not moved."""

    def __init__(self, context: ServingContext, stored: StoredResponses) -> None:
        self._context = context
        self._stored = stored

    async def serve(
        self, http: web.Request, destination: Destination, target: str, body: Body
    ) -> web.StreamResponse | Refusal:
        """Serve it; a Refusal if it cannot be read."""
        context, arrived_at = self._context, time.monotonic()
        arrived(context, http)
        request = await self._read(http, target, body)
        if isinstance(request, Refusal):
            turned_away(context, request)
            return request
        home = await self._home(http, member(request.body, "previous_response_id"))

        async def relay(active: ActiveRequest) -> tuple[web.StreamResponse, str]:
            made = GenerationRelay(
                context, http, request, active, destination.dialect, self._stored, arrived_at
            )
            if home is not None:
                made.route.starts_at(home)
            return await made.run()

        facts = Facts(request.class_name, request.model, request.prompt_tokens, _IMMOVABLE)
        return await tracked(context, facts, relay)

    async def _home(self, http: web.Request, response_id: object) -> Instance | None:
        """Return the instance that stores the response a request refers to, if it is known."""
        if not isinstance(response_id, str):
            return None
        known = self._stored.home(response_id)
        if known is None and response_id not in self._stored:
            known = await search(self._context, response_id, identity(http.headers))
            if known is not None:
                self._stored.learn(response_id, known)
        return known

    async def _read(self, http: web.Request, target: str, body: Body) -> ClientRequest | Refusal:
        try:
            raw = await body.read_all()
        except BrokenBody as error:
            return error.refusal()
        if raw is None:
            limit = self._context.config.body_limit_bytes
            return Refusal(413, f"the body is larger than {limit} bytes", "request_too_large")
        model = member(raw, "model")
        visit, priorities = own_visit(), _priorities(raw)
        classes = visit.classes(self._context.classes)
        class_name = class_of(http.headers, priorities, classes)
        if isinstance(class_name, Refusal):
            return class_name
        model = model if isinstance(model, str) and model else None
        tokens = max(1, len(raw) // _BYTES_PER_TOKEN)
        limits = [member(raw, name) for name in _OUTPUT_LIMITS]
        limit_tokens = max((each for each in limits if isinstance(each, int)), default=0)
        refusal = await inadmissible(self._context, model, tokens, limit_tokens)
        if refusal is not None:
            return refusal
        if classes.ceiling and is_urgent(priorities) and raw.rstrip().endswith(b"}"):
            raw = with_member(raw, "priority", value=0)  # servers may schedule by it themselves
        return ClientRequest(
            path=target,
            body=raw,
            body_ids=raw,
            forged=False,
            model=model,
            streams=member(raw, "stream") is True,
            class_index=self._context.classes.names.index(class_name),
            class_name=class_name,
            prompt_tokens=tokens,
            resumable=False,
            hides_ids=False,
            wants_usage=False,
            has_params=False,
            recipe=None,
            tenant=visit.caller.tenant,
            output_limit_tokens=limit_tokens,
        )


def _priorities(raw: bytes) -> Mapping[str, object]:
    return {name: member(raw, name) for name in ("priority", "service_tier")}
