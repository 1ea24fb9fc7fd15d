"""Server-sent events as bytes: where they end, what they carry, which of them redirect."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DONE = b"data: [DONE]\n\n"
REDIRECT_MARK = b'"stop_reason":"migrate:'
REFUSED_MARK = b'"stop_reason":"llumnix:refused:'
REQUEUE = "requeue"
_STOPPED_MARK = b'"stop_reason":"'

_NULLED = re.compile(rb'("(?:prompt_)?token_ids":)\[[^\]]*\]')
_EMPTY_DELTA = b'"delta":{}'
_ONLY_IDS = re.compile(rb'"delta":\{\},"logprobs":null,"finish_reason":null,"token_ids":\[')
_IDS = re.compile(rb',"(?:prompt_)?token_ids":(?:null|\[[^\]]*\])')
_TOKEN_IDS = re.compile(rb'"token_ids":\[([^\]]+)\]')
_CHUNK = re.compile(rb"^data:\s*\{", re.MULTILINE)
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_REDIRECT = "migrate:"
_REFUSED = "llumnix:refused:"
# vLLM 0.30 says `tool_calls` of any stream that has called a tool, however it ended.
_CUT_OFF = ("abort", "length", "tool_calls")
"""How an engine ends a request that has moved: the emulated one, and vLLM's own way."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """The request went on elsewhere: by a migration, or back to the queue (`migration_id` None).

    `choice` is the one that says so, with tokens the client is to get from elsewhere.
    """

    migration_id: str | None
    choice: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ClaimRefused:
    """The instance would not carry the request on: our signature did not convince it."""

    reason: str


def complete(data: bytes) -> int:
    """Say how many of these bytes are whole events (those up to the last blank line)."""
    if data.endswith(b"\n\n"):
        return len(data)
    line_feeds, with_returns = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(
        line_feeds + 2 if line_feeds >= 0 else 0, with_returns + 4 if with_returns >= 0 else 0
    )


def events(data: bytes) -> Iterator[bytes]:
    """Cut whole events apart, each with its blank line; bytes after the last are one more piece."""
    start = 0
    for end in _EVENT_END.finditer(data):
        yield data[start : end.end()]
        start = end.end()
    if start < len(data):
        yield data[start:]


def payload(event: bytes) -> dict[str, Any] | None:
    """Parse an event's JSON object; None for comments, `[DONE]` and what is not an object."""
    text = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
    if not text.startswith(b"{"):
        return None
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def encode(parsed: dict[str, Any]) -> bytes:
    """Write an event, compact as vLLM does."""
    text = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)
    return b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"


def is_done(event: bytes) -> bool:
    """Say whether this is the event that ends a stream."""
    return event.startswith(b"data:") and event[5:].strip() == b"[DONE]"


def ends_with_done(data: bytes) -> bool:
    """Say whether the last of these whole events is the one that ends a stream."""
    line = data.rstrip().rpartition(b"\n")[2]
    return is_done(line)


def outcome_of(parsed: dict[str, Any] | None) -> Redirect | ClaimRefused | None:
    """Read off a parsed chunk or answer that its instance has let go of the request.

    A client may well stop at the string `migrate:x`; then the finish reason is `stop`.
    """
    choices = parsed.get("choices") if parsed else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    reason = choices[0].get("stop_reason")
    if choices[0].get("finish_reason") not in _CUT_OFF or not isinstance(reason, str):
        return None
    if reason.startswith(_REFUSED):
        return ClaimRefused(reason.removeprefix(_REFUSED))
    if not reason.startswith(_REDIRECT):
        return None
    target = reason.removeprefix(_REDIRECT)
    return Redirect(None if target == REQUEUE else target, choices[0])


def lets_go(data: bytes) -> bool:
    """Say whether there may be a redirect or a refusal in these events, at next to no cost."""
    return _STOPPED_MARK in data and (REDIRECT_MARK in data or REFUSED_MARK in data)


def until_let_go(data: bytes) -> tuple[bytes, Redirect | ClaimRefused | None]:
    """Cut whole events off before a redirect or refusal; it is swallowed with all that follows."""
    kept = b""
    for event in events(data):
        outcome = outcome_of(payload(event)) if lets_go(event) else None
        if outcome is not None:
            return kept, outcome
        kept += event
    return kept, None


def without_token_ids(data: bytes) -> bytes:
    """Cut the token ids out that were asked for by us and not by the client.

    Inside a JSON string quotes are escaped, so text that looks like these members never matches.
    """
    return _IDS.sub(b"", data)


def with_token_ids_nulled(data: bytes) -> bytes:
    """Do the same with vLLM's events, which have null in the place of ids nobody asked for.

    Of a token that shows nowhere (a parser swallowed it) vLLM then writes no event at all.
    """
    if _EMPTY_DELTA in data:
        data = b"".join(event for event in events(data) if not _ONLY_IDS.search(event))
    return _NULLED.sub(rb"\1null", data)


def token_ids(data: bytes) -> list[int]:
    """List the output token ids these events carry."""
    return [int(one) for ids in _TOKEN_IDS.findall(data) for one in ids.split(b",")]


def count_token_ids(data: bytes) -> int:
    """Count the output token ids these events carry."""
    return sum(ids.count(b",") + 1 for ids in _TOKEN_IDS.findall(data))


def count_chunks(data: bytes) -> int:
    """Count the events that carry JSON: about one a token, where a server tells no ids."""
    return len(_CHUNK.findall(data))
