"""Read single members of a request's body without parsing it, however large it is.

A quote within a JSON string is escaped, so `{"name":` or `,"name":` is always a member's name.
Which object it belongs to is not always plain: if members of one name differ, a small body is
parsed, and of a large one the last counts, as it does if all are of the outermost object.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

_NAMES = (
    *(b"model", b"stream", b"priority", b"service_tier", b"previous_response_id"),
    *(b"max_tokens", b"max_output_tokens", b"max_completion_tokens"),
)
_MEMBER = re.compile(
    rb'[{,]\s*"(' + b"|".join(_NAMES) + rb')"\s*:\s*("(?:[^"\\]|\\.)*"|true|false|null|-?\d+)'
)
_SLICE_BYTES = 128 * 1024
"""How much is read before others have their turn: a millisecond's worth."""
_LONGEST_MEMBER_BYTES = 4096
_SMALL_BYTES = 128 * 1024
_BLOCK_BYTES = 4096
_JSON = ("application/json", "text/json", "text/plain", "")
_FORM = "application/x-www-form-urlencoded"
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;]+))', re.IGNORECASE)
_LONGEST_FIELD_BYTES = 1024
_LONGEST_QUERY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Members:
    """The members found in a JSON body, of those that matter here.

    `text_bytes` is its length without what is no text, such as images in base64.
    """

    values: Mapping[str, Any]
    text_bytes: int

    @property
    def model(self) -> str | None:
        """Return the model it names; None if it names none."""
        model = self.values.get("model")
        return model if isinstance(model, str) and model else None


@dataclass(frozen=True, slots=True)
class Peek:
    """What a body says of where it is to go. `settled`: more of the body would not change it."""

    model: str | None = None
    settled: bool = False


class FormReader:
    """Finds the model in a multipart form as it arrives."""

    def __init__(self, content_type: str) -> None:
        found = _BOUNDARY.search(content_type)
        name = (found.group(1) or found.group(2)) if found else ""
        self._line = b"--" + name.encode() if name else b""
        self._part_at = 0

    def model(self, data: bytes) -> str | None:
        """Return the form's model, given all that has arrived; None if it is not there yet."""
        if not self._line:
            return None
        while data.startswith(self._line, self._part_at):
            head_end = data.find(b"\r\n\r\n", self._part_at, self._part_at + _LONGEST_MEMBER_BYTES)
            if head_end < 0:
                return None
            head = data[self._part_at + len(self._line) : head_end].lower()
            named = re.search(rb'name="?model"?(?:;|\s|$)', head) is not None
            within = head_end + _LONGEST_FIELD_BYTES if named else len(data)
            end = data.find(b"\r\n" + self._line, head_end, within)
            if end < 0:
                return None
            if named:
                return data[head_end + 4 : end].decode(errors="replace")
            self._part_at = end + 2
        return None


def is_form(content_type: str) -> bool:
    """Return whether a body is a multipart form."""
    return _kind(content_type) == "multipart/form-data"


def is_telling(content_type: str) -> bool:
    """Return whether a body may name its model, somewhere."""
    kind = _kind(content_type)
    return kind in _JSON or kind.endswith("+json") or kind == _FORM


async def read_model(content_type: str, data: bytes) -> str | None:
    """Return the model that a body (or its beginning) names; None if it names none."""
    if _kind(content_type) == _FORM:
        return query_field(data, "model")
    return (await read_members(data)).model


async def read_members(data: bytes) -> Members:
    """Read the members of a JSON body. What is no JSON has none."""
    found: dict[str, list[bytes]] = {}
    text_bytes = 0
    for start in range(0, len(data), _SLICE_BYTES):
        if start:
            await asyncio.sleep(0)
        end = min(start + _SLICE_BYTES, len(data))
        text_bytes += _text_bytes(data, start, end)
        for each in _MEMBER.finditer(data, start, min(end + _LONGEST_MEMBER_BYTES, len(data))):
            if each.start() < end:
                found.setdefault(each.group(1).decode(), []).append(each.group(2))
    return Members(_values(found, data), text_bytes)


def query_field(data: bytes, name: str) -> str | None:
    """Return a field of a query string or form; None if there is none, or it is empty."""
    try:
        given = parse_qs(data[:_LONGEST_QUERY_BYTES].decode("ascii"), max_num_fields=1000)
    except (UnicodeDecodeError, ValueError):
        return None
    return given[name][-1] if name in given else None


def _values(found: Mapping[str, list[bytes]], data: bytes) -> Mapping[str, Any]:
    try:
        values = {name: json.loads(texts[-1]) for name, texts in found.items()}
        if len(data) <= _SMALL_BYTES and any(len(set(texts)) > 1 for texts in found.values()):
            parsed = json.loads(data)
            return {name: parsed.get(name) for name in found} if isinstance(parsed, dict) else {}
    except (ValueError, RecursionError):
        return {}
    return values


def _text_bytes(data: bytes, start: int, end: int) -> int:
    """Count the bytes in blocks that hold a blank or a quote, as text does and base64 does not."""
    return sum(
        min(_BLOCK_BYTES, end - at)
        for at in range(start, end, _BLOCK_BYTES)
        if data.find(b'"', at, at + _BLOCK_BYTES) >= 0
        or data.find(b" ", at, at + _BLOCK_BYTES) >= 0
        or data.find(b"\\", at, at + _BLOCK_BYTES) >= 0
        or data.find(b",", at, at + _BLOCK_BYTES) >= 0
    )


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
