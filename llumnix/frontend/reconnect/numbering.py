"""Number a stream's events, and leave out those that its client has already.

Bytes in, bytes out. The stream is always fed from its first event: from memory, or computed again.
What is left out must be what the client has, which the digest in its last event's id proves.
"""

import zlib
from typing import Any

from llumnix.frontend.reconnect.position import Position
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.splice import Diverged
from llumnix.frontend.splicing.transcript import only_choice, strings

_SPENT = ("id", "type")


class Numbering:
    """Writes an `id` line before each event that says something; `since` is where to begin."""

    def __init__(self, since: Position) -> None:
        self._since = since
        self._characters = self._tokens = self._after = self._created = self._digest = 0
        self._ids_digest = 0
        self._finished = False
        self._channel = ""
        self.caught_up = since.at_start

    def feed(self, data: bytes) -> bytes:
        """Return what the client gets of whole events. Raises Diverged until `caught_up`."""
        return b"".join(map(self._one, sse.events(data)))

    def position(self) -> Position:
        """Return the place after the last event fed."""
        return Position(
            self._characters,
            self._tokens,
            self._finished,
            self._after,
            self._created,
            self._digest ^ self._ids_digest,
        )

    def _one(self, event: bytes) -> bytes:
        chunk = sse.payload(event)
        if chunk is None and not sse.is_done(event):
            return event  # a comment
        if chunk is not None and "error" in chunk:
            return event
        if not self.caught_up:
            return self._skip(event, chunk)
        first = self._since.created
        if first and chunk is not None and chunk.get("created") not in (None, first):
            event = sse.encode({**chunk, "created": first})
        return self._numbered(event, chunk)

    def _numbered(self, event: bytes, chunk: dict[str, Any] | None) -> bytes:
        if not self._count(chunk):
            self._after += 1
        return b"id: %b\n%b" % (str(self.position()).encode(), event)

    def _skip(self, event: bytes, chunk: dict[str, Any] | None) -> bytes:
        """Leave out what the client has of an event."""
        since = self._since
        if self._level() and not self._grows(chunk):
            if self._after < since.after:
                self._after += 1
                self._check()
                return b""
            self._reached()
            return self._one(event)
        if self._level():
            self._reached()
            return self._one(event)
        if chunk is None:
            raise Diverged("it ends short of what the client has")
        choice = only_choice(chunk)
        if choice is None or not self._grows(chunk):
            return b""
        fresh = self._cut(choice)
        if not self._level():
            if fresh:
                raise Diverged("it is not the answer that the client has the beginning of")
            return b""
        self._check()
        if not fresh:
            return b""
        self._reached()
        return self._one(sse.encode(chunk))

    def _cut(self, choice: dict[str, Any]) -> bool:
        """Take out of a choice what the client has, and count it; return whether more is left."""
        since, fresh = self._since, False
        for channel, holder, key in list(strings(choice)):
            text = holder[key]
            had = text[: max(0, since.characters - self._characters)]
            self._say(channel, had)
            holder[key] = text[len(had) :]
            fresh = fresh or bool(holder[key])
        fresh = self._cut_tokens(choice) or fresh
        delta = choice.get("delta")
        if isinstance(delta, dict):
            delta.pop("role", None)
            _drop_headers(delta)
        finishes = choice.get("finish_reason") is not None
        if finishes and since.finished and not fresh:
            self._finished = True
        return fresh or (finishes and not since.finished)

    def _cut_tokens(self, choice: dict[str, Any]) -> bool:
        had = min(_tokens(choice), max(0, self._since.tokens - self._tokens))
        if not _tokens(choice):
            return False
        self._note_ids((choice.get("token_ids") or [])[:had])
        self._tokens += had
        if choice.get("token_ids"):
            choice["token_ids"] = choice["token_ids"][had:]
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            for key, value in logprobs.items():
                if isinstance(value, list):
                    logprobs[key] = value[had:]
        return _tokens(choice) > 0

    def _level(self) -> bool:
        """Whether all that counts has been left out that the client has."""
        since = self._since
        return (
            self._characters >= since.characters
            and self._tokens >= since.tokens
            and self._finished >= since.finished
        )

    def _check(self) -> None:
        if self._digest ^ self._ids_digest != self._since.digest:
            raise Diverged("it is not the answer that the client has the beginning of")

    def _reached(self) -> None:
        self._check()
        self.caught_up = True

    def _grows(self, chunk: dict[str, Any] | None) -> bool:
        choice = only_choice(chunk or {})
        return choice is not None and (
            any(holder[key] for _, holder, key in strings(choice))
            or _tokens(choice) > 0
            or choice.get("finish_reason") is not None
        )

    def _count(self, chunk: dict[str, Any] | None) -> bool:
        """Count what an event says; return whether it says anything that counts."""
        if chunk is None:
            return False
        if not self._created and isinstance(chunk.get("created"), int):
            self._created = self._since.created or chunk["created"]
        choice = only_choice(chunk)
        if choice is None or not self._grows(chunk):
            return False
        for channel, holder, key in strings(choice):
            self._say(channel, holder[key])
        self._note_ids(choice.get("token_ids") or [])
        self._tokens += _tokens(choice)
        self._finished = self._finished or choice.get("finish_reason") is not None
        self._after = 0
        return True

    def _say(self, channel: str, text: str) -> None:
        if not text:
            return
        if channel != self._channel:
            self._channel = channel
            self._digest = zlib.crc32(b"\0%b\0" % channel.encode(), self._digest)
        self._digest = zlib.crc32(text.encode("utf-8", "surrogatepass"), self._digest)
        self._characters += len(text)

    def _note_ids(self, ids: list[int]) -> None:
        for token in ids:
            self._ids_digest = zlib.crc32(token.to_bytes(8, "little"), self._ids_digest)


def _tokens(choice: dict[str, Any]) -> int:
    """Count the tokens that a choice tells the client of: by their ids or log-probabilities."""
    logprobs = choice.get("logprobs")
    lists = [each for each in logprobs.values() if isinstance(each, list)] if logprobs else []
    return max([len(choice.get("token_ids") or ()), *map(len, lists)])


def _drop_headers(delta: dict[str, Any]) -> None:
    """Drop from a tool call what its first chunk told: its id and type, unless its name is new."""
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        if not function.get("name"):
            for name in _SPENT:
                call.pop(name, None)
            function.pop("name", None)
