"""The admin API: queries and orders of the command line and the live view."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from llumnix.admin import openapi
from llumnix.admin.schema import DrainStatus, MemberStatus, News, RequestDecisions
from llumnix.errors import ConfigError
from llumnix.fleet import view as fleet_view
from llumnix.fleet.fleet import Fleet
from llumnix.fleet.migrations.mover import Impossible
from llumnix.frontend.access.admin_guard import AdminGuard
from llumnix.frontend.http.slices import json_list, json_object, send_in_slices
from llumnix.frontend.queue import HoldQueue
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from policies.types import RequestId

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_BODY_LIMIT_BYTES = 64 * 1024


class Admin:
    """Handlers under /llumnix/. All respond with JSON, errors in OpenAI's format."""

    def __init__(self, fleet: Fleet, queue: HoldQueue, guard: AdminGuard) -> None:
        self._queue = queue
        self._guard = guard
        self._fleet = fleet

    def routes(self) -> list[web.RouteDef]:
        """List the routes; any other path under /llumnix/ is unknown."""
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/llumnix/fleet", self._get_fleet),
            ("GET", "/llumnix/events", self._get_events),
            ("GET", "/llumnix/requests", self._get_requests),
            ("GET", "/llumnix/explain/{request_id}", self._explain),
            ("POST", "/llumnix/migrate", self._migrate),
            ("POST", "/llumnix/drain", self._drain),
            ("POST", "/llumnix/instances", self._add),
            ("DELETE", "/llumnix/instances/{instance_id:(?s:.+)}", self._remove),
            ("GET", "/llumnix/openapi.json", self._openapi),
            ("*", "/llumnix{rest:(?s:(/.*)?)}", unknown),
        ]
        return [web.route(method, path, self._guarded(each)) for method, path, each in routes]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(http: web.Request) -> web.StreamResponse:
            refusal = self._guard.refusal(http.method, http.headers)
            return refusal.response() if refusal is not None else await handler(http)

        return guarded

    async def _get_fleet(self, http: web.Request) -> web.StreamResponse:
        queue = self._queue
        summary = fleet_view.fleet_summary(self._fleet, len(queue), queue.limit).to_json()
        rows = (each.to_json() for each in fleet_view.instance_statuses(self._fleet))
        return await send_in_slices(http, json_object(summary, "instances", rows))

    async def _get_events(self, http: web.Request) -> web.StreamResponse:
        try:
            after = int(http.query.get("after", "0"))
        except ValueError:
            return Refusal(400, "after must be a number", "invalid_value", "after").response()
        ring = self._fleet.events
        news = (each.to_json() for each in ring.after(after))
        return await send_in_slices(http, json_object(News(ring.seq, ()).to_json(), "events", news))

    async def _get_requests(self, http: web.Request) -> web.StreamResponse:
        rows = (each.to_json() for each in fleet_view.request_statuses(self._fleet))
        return await send_in_slices(http, json_list(rows))

    async def _explain(self, http: web.Request) -> web.StreamResponse:
        request_id = RequestId(http.match_info["request_id"])
        decisions = self._fleet.requests.explain(request_id)
        if decisions is None:
            return Refusal(404, f"request {request_id!r} is not known").response()
        rows = (each.record().to_json() for each in decisions)
        whole = RequestDecisions(request_id).to_json()
        return await send_in_slices(http, json_object(whole, "decisions", rows))

    async def _openapi(self, _http: web.Request) -> web.Response:
        return _json(openapi.document())

    async def _migrate(self, http: web.Request) -> web.Response:
        asked = await _body(http, {"request_id": str, "source": str, "destination": str})
        if isinstance(asked, Refusal):
            return asked.response()
        if not asked.get("request_id") and not asked.get("source"):
            return Refusal(
                400, "give the request_id to move, or the source to move one from"
            ).response()
        done = await self._fleet.mover.move_by_hand(
            asked.get("request_id"), asked.get("source"), asked.get("destination")
        )
        if isinstance(done, Impossible):
            return Refusal(404 if done.unknown else 409, done.reason).response()
        return _json(done.status().to_json())

    async def _drain(self, http: web.Request) -> web.Response:
        asked = await _body(http, {"instance_id": str, "on": bool})
        if isinstance(asked, Refusal):
            return asked.response()
        instance = self._instance(asked.get("instance_id"))
        if isinstance(instance, Refusal):
            return instance.response()
        try:
            await self._fleet.mover.drain(instance, on=asked.get("on", True))
        except OSError as error:
            return Refusal(502, f"cannot send the order to {instance.id}: {error}").response()
        self._queue.retry()
        return _json(DrainStatus(instance.id, instance.state).to_json())

    async def _add(self, http: web.Request) -> web.Response:
        asked = await _body(http, {"url": str})
        if isinstance(asked, Refusal):
            return asked.response()
        try:
            instance = await self._fleet.members.add(asked.get("url", ""))
        except ConfigError as error:
            return Refusal(400, str(error), "invalid_value", "url").response()
        return _json(MemberStatus(instance.id, instance.url, instance.state).to_json())

    async def _remove(self, http: web.Request) -> web.Response:
        instance = self._instance(http.match_info["instance_id"])
        if isinstance(instance, Refusal):
            return instance.response()
        await self._fleet.members.remove(instance, now="now" in http.query)
        self._queue.retry()
        there = instance in self._fleet.instances
        state = str(instance.state) if there else "removed"
        return _json(MemberStatus(instance.id, instance.url, state).to_json())

    def _instance(self, instance_id: str | None) -> Instance | Refusal:
        instance = self._fleet.instances.get(instance_id)
        if instance is not None:
            return instance
        known = ", ".join(each.id for each in self._fleet.instances)
        return Refusal(404, f"there is no instance {instance_id!r}; known: {known}")


async def unknown(http: web.Request) -> web.Response:
    """Answer a path under /llumnix/ that is not served on this port."""
    return Refusal(404, f"there is no {http.method} {http.path} on this port").response()


async def _body(http: web.Request, known: dict[str, type]) -> dict[str, Any] | Refusal:
    if (http.content_length or 0) > _BODY_LIMIT_BYTES:
        return Refusal(413, f"an order has at most {_BODY_LIMIT_BYTES} bytes")
    try:
        parsed = json.loads(await http.read())
    except (ValueError, RecursionError) as error:
        return Refusal(400, f"the body is not valid JSON: {error}")
    if not isinstance(parsed, dict):
        return Refusal(400, "the body must be a JSON object")
    for key, value in parsed.items():
        if key not in known:
            return Refusal(400, f"unknown field {key!r}; known: {', '.join(known)}")
        if value is not None and not isinstance(value, known[key]):
            return Refusal(400, f"{key} must be {known[key].__name__}, not {value!r}")
    return {key: value for key, value in parsed.items() if value is not None}


def _json(value: object) -> web.Response:
    dump: Callable[[object], str] = json.dumps
    return web.Response(text=dump(value), content_type="application/json")
