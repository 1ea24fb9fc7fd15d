"""Read single members of a request's body without parsing it, however large it is.

A quote within a JSON string is escaped, so `{"name":` or `,"name":` is always a member's name.
Which object it belongs to is not always plain; only if members of that name differ is the body
parsed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

_VALUE = rb'("(?:[^"\\]|\\.)*"|true|false|null|-?\d+)'
_MEMBERS = {
    name: re.compile(rb'[{,]\s*"' + name.encode() + rb'"\s*:\s*' + _VALUE)
    for name in (
        *("model", "stream", "priority", "service_tier", "previous_response_id"),
        *("max_tokens", "max_output_tokens", "max_completion_tokens"),
    )
}
_JSON = ("application/json", "text/json", "text/plain", "")
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;]+))', re.IGNORECASE)
_LONGEST_FIELD_BYTES = 1024
_LONGEST_QUERY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Peek:
    """What a body says of where it is to go. `settled`: more of the body would not change it."""

    model: str | None = None
    settled: bool = False


def peek(content_type: str, data: bytes, *, whole: bool) -> Peek:
    """Return what a body, or its beginning, says."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        model = _form_field(content_type, data, "model")
        return Peek(model, whole or model is not None)
    form = kind == "application/x-www-form-urlencoded"
    if not form and kind not in _JSON and not kind.endswith("+json"):
        return Peek(settled=True)
    if not whole:
        return Peek()
    if form:
        return Peek(query_field(data, "model"), settled=True)
    model = member(data, "model")
    return Peek(model if isinstance(model, str) else None, settled=True)


def member(data: bytes, name: str) -> Any:
    """Return a top-level member of a JSON object that is a string, number, boolean or null.

    None if there is none, or if this is no JSON object.
    """
    found = {each.group(1) for each in _MEMBERS[name].finditer(data)}
    if not found:
        return None
    try:
        if len(found) == 1:
            return json.loads(found.pop())
        parsed = json.loads(data)
        return parsed.get(name) if isinstance(parsed, Mapping) else None
    except (ValueError, RecursionError):
        return None


def _form_field(content_type: str, data: bytes, name: str) -> str | None:
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return None
    line = b"--" + (boundary.group(1) or boundary.group(2)).encode()
    at = data.find(line)
    while at >= 0:
        head_end = data.find(b"\r\n\r\n", at)
        if head_end < 0:
            return None
        head = data[at + len(line) : head_end].lower()
        if re.search(rb'name="?' + name.encode() + rb'"?(?:;|\s|$)', head):
            end = data.find(b"\r\n" + line, head_end, head_end + _LONGEST_FIELD_BYTES)
            return data[head_end + 4 : end].decode(errors="replace") if end >= 0 else None
        at = data.find(b"\r\n" + line, head_end)
        at = at + 2 if at >= 0 else -1
    return None


def query_field(data: bytes, name: str) -> str | None:
    """Return a field of a query string or form; None if there is none, or it is empty."""
    try:
        given = parse_qs(data[:_LONGEST_QUERY_BYTES].decode("ascii"), max_num_fields=1000)
    except (UnicodeDecodeError, ValueError):
        return None
    return given[name][-1] if name in given else None
