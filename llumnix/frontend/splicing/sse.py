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
STOPPED_MARK = b'"stop_reason":"'
ERROR_MARK = b'"error"'

_EMPTY_DELTA = b'"delta":{}'
_ONLY_IDS = re.compile(rb'"delta":\{\},"logprobs":null,"finish_reason":null,"token_ids":\[')
_IDS_NAME = b'token_ids":'
_IDS_LIST = b'token_ids":['
_IDS_BEGIN = b'"token_ids":['
_LEADS = (b',"', b',"prompt_')
_TOKEN_IDS = re.compile(rb'"token_ids":\[([^\]]+)\]')
_CHUNK = re.compile(rb"^data:\s*\{", re.MULTILINE)
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_REDIRECT = "migrate:"
_REFUSED = "llumnix:refused:"
# vLLM 0.30 reports `tool_calls` for any stream that called a tool, however it ended.
_CUT_OFF = ("abort", "length", "tool_calls")
"""How an engine ends a request that has moved: the emulated engine's way, and vLLM's."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """The request continues elsewhere: by a migration, or back in the queue (`migration_id` None).

    `choice` is the one that says so, with tokens that the client gets from elsewhere.
    """

    migration_id: str | None
    choice: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ClaimRefused:
    """The instance refused to resume the request: it did not accept the signature."""

    reason: str


@dataclass(frozen=True, slots=True)
class ServerError:
    """The instance gave the request up for a reason of its own; `rest` is how it said so."""

    status: int
    message: str
    rest: bytes


def complete(data: bytes) -> int:
    """Return the length of the whole events in these bytes (up to the last blank line)."""
    if data.endswith(b"\n\n"):
        return len(data)
    line_feeds, with_returns = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(
        line_feeds + 2 if line_feeds >= 0 else 0, with_returns + 4 if with_returns >= 0 else 0
    )


def events(data: bytes) -> Iterator[bytes]:
    """Split whole events, each with its blank line; bytes after the last are one more piece."""
    start = 0
    for end in _EVENT_END.finditer(data):
        yield data[start : end.end()]
        start = end.end()
    if start < len(data):
        yield data[start:]


def payload(event: bytes) -> dict[str, Any] | None:
    """Parse an event's JSON object; None for comments, `[DONE]` and anything else."""
    text = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
    if not text.startswith(b"{"):
        return None
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def encode(parsed: dict[str, Any]) -> bytes:
    """Serialize an event, compactly as vLLM does."""
    text = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)
    return b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"


def is_done(event: bytes) -> bool:
    """Return whether this is the event that ends a stream."""
    return event.startswith(b"data:") and event[5:].strip() == b"[DONE]"


def ends_with_done(data: bytes) -> bool:
    """Return whether the last of these whole events is the one that ends a stream."""
    line = data.rstrip().rpartition(b"\n")[2]
    return is_done(line)


def outcome_of(parsed: dict[str, Any] | None) -> Redirect | ClaimRefused | None:
    """Return how a parsed chunk or response says that its instance let the request go, if it does.

    A client may have a stop string `migrate:x`; then the finish reason is `stop`.
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
    """Return whether these events may hold a redirect or a refusal, at almost no cost."""
    return STOPPED_MARK in data and (REDIRECT_MARK in data or REFUSED_MARK in data)


def until_let_go(data: bytes) -> tuple[bytes, Redirect | ClaimRefused | None]:
    """Truncate whole events before a redirect or refusal, dropping it and all that follows."""
    kept = b""
    for event in events(data):
        outcome = outcome_of(payload(event)) if lets_go(event) else None
        if outcome is not None:
            return kept, outcome
        kept += event
    return kept, None


def tells_error(data: bytes) -> bool:
    """Return whether these events may hold an error, at almost no cost.

    Inside a JSON string quotes are escaped, so text that looks like this member never matches.
    """
    return ERROR_MARK in data


def until_error(data: bytes) -> tuple[bytes, ServerError | None]:
    """Truncate whole events before a server's error, dropping it and all that follows.

    An error that is the request's fault (status 4xx, but for 429) is output like any other.
    """
    at = 0
    for event in events(data):
        error = _server_error(event, data[at:]) if tells_error(event) else None
        if error is not None:
            return data[:at], error
        at += len(event)
    return data, None


def _server_error(event: bytes, rest: bytes) -> ServerError | None:
    chunk = payload(event) or {}
    if chunk.get("choices"):
        return None
    told = chunk.get("error") or (chunk if chunk.get("object") == "error" else None)
    if not told:
        return None
    fields = told if isinstance(told, dict) else {"message": told}
    status = 500
    for key in ("code", "status", "status_code"):
        value = fields.get(key, chunk.get(key))
        if isinstance(value, int) and 400 <= value < 600:
            status = value
            break
    if status < 500 and status != 429:
        return None
    return ServerError(status, str(fields.get("message", ""))[:300], rest)


def without_token_ids(data: bytes) -> bytes:
    """Remove the token ids that the client did not ask for.

    Inside a JSON string quotes are escaped, so text that looks like these members never matches.
    """
    return _without_members(data)


def with_token_ids_nulled(data: bytes) -> bytes:
    """Do the same with vLLM's events, which hold null in place of ids that were not asked for.

    vLLM then writes no event at all for a token that a parser swallowed.
    """
    if _EMPTY_DELTA in data:
        data = b"".join(event for event in events(data) if not _ONLY_IDS.search(event))
    return _with_lists_nulled(data)


def _with_lists_nulled(data: bytes) -> bytes:
    """Put null for lists of ids, by search and slice: most of a token's cost was here once."""
    find = data.find
    at = find(_IDS_LIST)
    if at < 0:
        return data
    kept, start, size = [], 0, len(_IDS_LIST)
    while at >= 0:
        value = at + size - 1
        end = value
        # What was cut already cannot begin another match.
        if (at > start and data[at - 1 : at] == b'"') or (
            at >= start + 8 and data[at - 8 : at] == b'"prompt_'
        ):
            end = find(b"]", value) + 1
            if end:
                kept.append(data[start:value])
                start = end
        at = find(_IDS_LIST, max(end, value))
    kept.append(data[start:])
    return b"null".join(kept)


def _without_members(data: bytes) -> bytes:
    """Remove members with ids, or with null for them."""
    at = data.find(_IDS_NAME)
    if at < 0:
        return data
    kept, start = [], 0
    while at >= 0:
        value = at + len(_IDS_NAME)
        lead = next((each for each in _LEADS if data.endswith(each, start, at)), None)
        end = _value_end(data, value) if lead is not None else 0
        if lead is not None and end:
            kept.append(data[start : at - len(lead)])
            start = end
        at = data.find(_IDS_NAME, max(value, end))
    kept.append(data[start:])
    return b"".join(kept)


def _value_end(data: bytes, at: int) -> int:
    """Return where a list or null ends; 0 if neither is there."""
    if data.startswith(b"[", at):
        return data.find(b"]", at) + 1
    return at + 4 if data.startswith(b"null", at) else 0


def token_ids(data: bytes) -> list[int]:
    """Return the output token ids in these events."""
    return [int(one) for ids in _TOKEN_IDS.findall(data) for one in ids.split(b",")]


def count_token_ids(data: bytes) -> int:
    """Count the output token ids in these events."""
    total, at = 0, data.find(_IDS_BEGIN)
    while at >= 0:
        start = at + len(_IDS_BEGIN)
        end = data.find(b"]", start)
        if end < 0:
            break
        if end > start:
            total += data.count(b",", start, end) + 1
        at = data.find(_IDS_BEGIN, end)
    return total


def count_chunks(data: bytes) -> int:
    """Count the events with JSON: about one per token, if the server sends no ids."""
    return len(_CHUNK.findall(data))
