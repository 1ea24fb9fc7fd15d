"""The beginning of a stream in which nothing has been said yet, held back until something is.

As long as the client has none of it, another instance can begin afresh without a trace. Pure: bytes
in, bytes out.
"""

import re

from llumnix.frontend.paths.table import Dialect
from llumnix.frontend.splicing import sse

_TYPE = re.compile(rb'^(?:event: *([\w.]+)|data: *\{.*?"type" *: *"([\w.]+)")', re.MULTILINE)
_ID = re.compile(rb'"id" *: *"([^"\\]{1,256})"')
_SILENT: dict[Dialect, frozenset[bytes]] = {
    Dialect.OPENAI: frozenset(),
    Dialect.RESPONSES: frozenset(
        {b"response.created", b"response.in_progress", b"response.queued", b"ping"}
    ),
    Dialect.MESSAGES: frozenset({b"message_start", b"ping"}),
}
_FAILED = frozenset({b"error", b"response.failed"})
_CLIENTS_FAULT = re.compile(rb"invalid_request|BadRequest|not_found|NotFound|\b4\d\d\b")
_LIMIT_BYTES = 256 * 1024
_SHOWN_BYTES = 300


class Preface:
    """Holds back the beginning of one stream.

    `said`: from here on everything is passed on. `failed`: the stream's first word is an `error` of
    the server's. `response_id` is the id that the server gives the response, once it is known.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.said = False
        self.failed = False
        self.error = ""
        self.response_id: str | None = None
        self._silent = _SILENT[dialect]
        self._held = b""
        self._looked_at = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return those to pass on."""
        if self.said:
            return data
        self._held += data
        end = sse.complete(self._held)
        for event in sse.events(self._held[self._looked_at : end]):
            self._look_at(event)
            if self.failed:
                return b""
        self._looked_at = end
        if self.said or len(self._held) > _LIMIT_BYTES:
            return self.release()
        return b""

    def release(self) -> bytes:
        """Return what is held back, and hold back no more."""
        self.said = True
        held, self._held = self._held, b""
        return held

    def _look_at(self, event: bytes) -> None:
        if not any(line.startswith(b"data:") for line in event.splitlines()):
            return
        if self.response_id is None and (found := _ID.search(event)):
            self.response_id = found.group(1).decode(errors="replace")
        named = _TYPE.search(event)
        kind = (named.group(1) or named.group(2)) if named else b""
        if kind in _FAILED and not _CLIENTS_FAULT.search(event):
            self.failed = not self.said
            self.error = event[:_SHOWN_BYTES].decode(errors="replace").strip()
        elif kind not in self._silent:
            self.said = True
