"""Read a request for generation that stays where it begins, and send it on its way.

Its body is forwarded as it is, whatever it holds: the server judges it. Only a few members are
read, without parsing it.
"""

import time

from aiohttp import web

from llumnix.fleet.requests import ActiveRequest
from llumnix.frontend.access.door import own_visit
from llumnix.frontend.bodies.broken import BrokenBody
from llumnix.frontend.context import ServingContext
from llumnix.frontend.paths.body import Body
from llumnix.frontend.paths.immovable.relay import GenerationRelay
from llumnix.frontend.paths.immovable.search import search
from llumnix.frontend.paths.immovable.stored import StoredResponses
from llumnix.frontend.paths.peek import Members, read_members
from llumnix.frontend.paths.table import Destination
from llumnix.frontend.request.body import in_utf8, with_member
from llumnix.frontend.request.headers import identity
from llumnix.frontend.request.refusal import Refusal, too_large
from llumnix.frontend.request.request import ClientRequest, class_of, is_id, is_true, is_urgent
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
        read = await self._read(http, target, body)
        if isinstance(read, Refusal):
            turned_away(context, read)
            return read
        request, members = read
        home = await self._home(http, members.values.get("previous_response_id"))

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
        if not isinstance(response_id, str) or not is_id(response_id):
            return None
        known = self._stored.home(response_id)
        if known is None and response_id not in self._stored:
            known = await search(self._context, response_id, identity(http.headers))
            if known is not None:
                self._stored.learn(response_id, known)
        return known

    async def _read(
        self, http: web.Request, target: str, body: Body
    ) -> tuple[ClientRequest, Members] | Refusal:
        try:
            raw = await body.read_all()
        except BrokenBody as error:
            return error.refusal()
        if raw is None:
            return too_large(self._context.config.body_limit_bytes)
        try:
            members = await read_members(in_utf8(raw))
        except ValueError as error:
            return Refusal(400, f"the body is not valid JSON: {error}", "invalid_json")
        visit, given = own_visit(), members.values
        classes = visit.classes(self._context.classes)
        class_name = class_of(http.headers, given, classes)
        if isinstance(class_name, Refusal):
            return class_name
        tokens = max(1, members.text_bytes // _BYTES_PER_TOKEN)
        limits = [given.get(name) for name in _OUTPUT_LIMITS]
        limit_tokens = max((each for each in limits if isinstance(each, int)), default=0)
        refusal = await inadmissible(self._context, members.model, tokens, limit_tokens)
        if refusal is not None:
            return refusal
        if classes.ceiling and is_urgent(given) and raw.rstrip().endswith(b"}"):
            raw = with_member(raw, "priority", value=0)  # servers may schedule by it themselves
        request = ClientRequest(
            path=target,
            body=raw,
            forged=False,
            model=members.model,
            streams=is_true(given.get("stream")),
            class_index=self._context.classes.names.index(class_name),
            class_name=class_name,
            prompt_tokens=tokens,
            resumable=False,
            hides_ids=False,
            wants_usage=False,
            own_params={},
            recipe=None,
            tenant=visit.caller.tenant,
            output_limit_tokens=limit_tokens,
        )
        return request, members
