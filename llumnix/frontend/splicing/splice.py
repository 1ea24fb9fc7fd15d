"""Join a stream that moved: skip what the client has, compare it, keep the first stream's id.

The instance that resumes a request replays its output from the first token. The replay may be split
into chunks differently, so skipping goes by characters within each channel of text (and by count
for token ids). What is skipped must equal what the client was sent: anything else would be the
output of another request, and ends the stream with an error.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.logprobs import KeptTokens
from llumnix.frontend.splicing.transcript import Channel, Transcript, only_choice, strings

_CREATED = re.compile(rb'"created"\s*:\s*\d+\s*[,}]')
_ID = re.compile(rb'"id"\s*:\s*"[^"]*"')
_DIGITS = re.compile(rb"\d+")
_LAST_STRING = re.compile(rb'"[^"]*"$')


class Diverged(Exception):  # noqa: N818 - an outcome the relay acts on, not a programming error
    """The replay differs from what the client already has; the message says where."""


class Splicer:
    """Turns the replaying stream of one instance into the rest of the client's stream.

    Feed it whole events until `caught_up`; from then on `relabel` alone is enough.
    """

    def __init__(self, had: Transcript, kept: KeptTokens) -> None:
        self.caught_up = False
        self._had = had
        self._kept = kept
        self._position = 0
        self._at: dict[Channel, int] = dict.fromkeys(had.texts, 0)
        self._ids_at = 0
        self._by_ids = bool(had.token_ids)
        self._swaps: list[tuple[bytes, bytes]] = []
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        """Return the part of these events that is new to the client. Raises Diverged."""
        out: list[bytes] = []
        rest = sse.events(data)
        for event in rest:
            out.append(self._one(event))
            if self.caught_up:
                break
        out.extend(self.relabel(event) for event in rest)
        return b"".join(out)

    def relabel(self, data: bytes) -> bytes:
        """Put the first stream's `id` and `created` into events that are otherwise untouched."""
        for ours, firsts in self._swaps:
            data = data.replace(ours, firsts)
        return data

    def _one(self, event: bytes) -> bytes:
        if sse.is_done(event):
            self._insist_complete("stream")
            return event
        chunk = sse.payload(event)
        if chunk is None or "error" in chunk:
            return event
        if not self._begun:
            self._begun = True
            self._learn_names(event)
        choice = only_choice(chunk)
        if choice is None:
            usage_again = self._had.usage and chunk.get("usage") is not None
            return b"" if usage_again else self.relabel(event)
        fresh = self._skip(choice)
        shown = self._missing() == 0 and self._position >= self._kept.end
        self.caught_up = shown and not self._had.finished
        if not fresh:
            return b""
        for holder in (chunk, choice):
            if holder.get("prompt_token_ids") is not None:
                holder["prompt_token_ids"] = None
        return sse.encode({**chunk, **self._had.head})

    def _skip(self, choice: dict[str, Any]) -> bool:
        """Remove what the client has from a choice, in place; return whether anything is left."""
        delta = choice.get("delta")
        if isinstance(delta, dict):
            delta.pop("role", None)
        fresh = self._skip_token_ids(choice)
        for channel, holder, key in list(strings(choice)):
            # A server that sends text without ids cannot be checked against them.
            self._by_ids = self._by_ids and ("token_ids" in choice or not holder[key])
            holder[key] = self._unseen(channel, holder[key])
            fresh = fresh or bool(holder[key])
        if isinstance(delta, dict) and delta.get("tool_calls"):
            self._skip_call_headers(delta)
        if choice.get("finish_reason") is not None:
            self._insist_complete("finish reason")
            fresh = fresh or not self._had.finished
        return fresh

    def _unseen(self, channel: Channel, text: str) -> str:
        seen, at = self._had.texts.get(channel, ""), self._at.get(channel, 0)
        overlap = min(len(text), len(seen) - at)
        if overlap <= 0:
            return text
        if not seen.startswith(text[:overlap], at):
            raise Diverged(f"{channel} differs after {at} characters")
        self._at[channel] = at + overlap
        return text[overlap:]

    def _skip_token_ids(self, choice: dict[str, Any]) -> bool:
        ids: list[int] = choice.get("token_ids") or []
        self._kept.restore(choice, self._position)
        self._position += len(ids)
        seen, at = self._had.token_ids, self._ids_at
        overlap = min(len(ids), len(seen) - at)
        if overlap > 0:
            if ids[:overlap] != seen[at : at + overlap]:
                raise Diverged(f"token ids differ after {at} tokens")
            self._ids_at = at + overlap
            choice["token_ids"] = ids[overlap:]
            _cut_logprobs(choice, overlap)
        return len(ids) > max(0, overlap)

    def _skip_call_headers(self, delta: dict[str, Any]) -> None:
        """Drop the header of a tool call the client knows: each server makes up its own ids."""
        kept = []
        for call in delta["tool_calls"]:
            function = call.get("function") or {}
            if f"tool_calls.{call.get('index', 0)}.name" in self._had.texts:
                self._learn_call_id(call)
                for key in ("id", "type"):
                    call.pop(key, None)
                if not function.get("name"):
                    function.pop("name", None)
            if function.get("name") or function.get("arguments") or "id" in call:
                kept.append(call)
        delta["tool_calls"] = kept

    def _learn_call_id(self, call: dict[str, Any]) -> None:
        first = self._had.call_ids.get(call.get("index", 0))
        if first is not None and call.get("id") not in (None, first):
            ours, firsts = (b'"id":%b' % json.dumps(one).encode() for one in (call["id"], first))
            self._swaps.append((ours, firsts))

    def _missing(self) -> int:
        """Count the characters and token ids that the client has and the replay has yet to show."""
        texts = sum(len(text) - self._at[channel] for channel, text in self._had.texts.items())
        ids = len(self._had.token_ids) - self._ids_at if self._by_ids else 0
        return texts + ids

    def _insist_complete(self, what: str) -> None:
        if self._missing():
            raise Diverged(f"the {what} ended {self._missing()} short of what was sent before")

    def _learn_names(self, event: bytes) -> None:
        for key, pattern, write in (
            ("id", _ID, _write_string),
            ("created", _CREATED, _write_number),
        ):
            found = pattern.search(event)
            if found and key in self._had.head:
                firsts = write(found.group(), self._had.head[key])
                if firsts != found.group():
                    self._swaps.append((found.group(), firsts))


def _write_string(member: bytes, value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False).encode()
    return _replace_with(_LAST_STRING, member, text)


def _write_number(member: bytes, value: object) -> bytes:
    return _replace_with(_DIGITS, member, str(value).encode())


def _replace_with(pattern: re.Pattern[bytes], member: bytes, text: bytes) -> bytes:
    write: Callable[[re.Match[bytes]], bytes] = lambda _: text  # noqa: E731
    return pattern.sub(write, member, count=1)


def _cut_logprobs(choice: dict[str, Any], tokens: int) -> None:
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return
    for key, value in logprobs.items():
        if isinstance(value, list):
            logprobs[key] = value[tokens:]
