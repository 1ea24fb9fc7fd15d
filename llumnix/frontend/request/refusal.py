"""Refusals in OpenAI's format: error bodies, error responses, and error events in a stream."""

import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    408: "RequestTimeoutError",
    409: "ConflictError",
    413: "RequestEntityTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: an HTTP status and the message that clients show their user.

    `retry_after_s` becomes a Retry-After header.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None

    def cause(self) -> str:
        """Return what the log says of it: not its message if that may quote the client."""
        code = self.code or str(self.status)
        return f"{code}: {self.message}" if self.status >= 500 else code

    def body(self) -> bytes:
        """Return the JSON error body."""
        return json.dumps(self._error(), separators=(",", ":")).encode()

    def event(self) -> bytes:
        """Return a server-sent event carrying the error, for a stream that has already begun."""
        return b"data: " + self.body() + b"\n\n"

    def response(self) -> web.Response:
        """Return the HTTP response."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = retry_after(self.retry_after_s)
        return web.Response(
            status=self.status,
            body=self.body(),
            content_type="application/json",
            headers=headers,
        )

    def _error(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "InternalServerError")
        code: str | int = self.status if self.code is None else self.code
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": code}}


def retry_after(seconds: float) -> str:
    """Return a wait as the header says it: whole seconds, at least one."""
    return str(max(1, round(seconds)))


def no_such_model(model: str) -> Refusal:
    """Return the refusal of a model that no instance serves, in vLLM's words."""
    return Refusal(404, f"The model `{model}` does not exist.", "model_not_found", "model")


def too_large(limit_bytes: int) -> Refusal:
    """Return the refusal of a body that is larger than this."""
    return Refusal(413, f"the body is larger than {limit_bytes} bytes", "request_too_large")


NO_INSTANCE = Refusal(503, "no instance is up", "no_instance", retry_after_s=1)
OUT_OF_CONNECTIONS = Refusal(
    503, "the frontend is out of connections; try again later", "overloaded", retry_after_s=1
)
