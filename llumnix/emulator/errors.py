"""Errors in OpenAI's format."""

import json

from aiohttp import web

_TYPES = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """A refused request, with the status and body that its client gets."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def response(self) -> web.Response:
        """Build the HTTP response."""
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, "internal_error"),
            "param": self.param,
            "code": self.code,
        }
        headers = {"Retry-After": "1"} if self.status == 503 else None
        return web.Response(
            status=self.status,
            body=json.dumps({"error": error}).encode(),
            content_type="application/json",
            headers=headers,
        )
