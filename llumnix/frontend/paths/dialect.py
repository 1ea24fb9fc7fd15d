"""Errors as each API tells them: in an answer, and as an event of a stream that has begun."""

import json
from typing import Any

from aiohttp import web

from llumnix.frontend.paths.table import Dialect
from llumnix.frontend.request.refusal import Refusal

_MESSAGES_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
"""What the Messages API calls an error of each status; any other is an `api_error`."""


def error_response(refusal: Refusal, dialect: Dialect) -> web.Response:
    """Return a refusal as the response of an API."""
    response = refusal.response()
    if dialect is Dialect.MESSAGES:
        response.body = _dump(_messages_error(refusal))
    return response


def error_event(refusal: Refusal, dialect: Dialect, events_before: int) -> bytes:
    """Return a refusal as the last event of a stream; `events_before` have preceded it."""
    if dialect is Dialect.MESSAGES:
        return _event("error", _messages_error(refusal))
    if dialect is Dialect.RESPONSES:
        error = json.loads(refusal.body())["error"]
        told = {key: error[key] for key in ("code", "message", "param")}
        told["code"] = str(told["code"])
        # Old clients read the members beside `type`, new ones those of `error`.
        event = {"type": "error", **told, "sequence_number": events_before, "error": error}
        return _event("error", event)
    return refusal.event()


def _messages_error(refusal: Refusal) -> dict[str, Any]:
    kind = _MESSAGES_TYPES.get(refusal.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _dump(data))


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
