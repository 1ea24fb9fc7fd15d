"""The only edits made to a request body on its way to an instance; all other bytes are kept.

1. `"return_token_ids":true` is added to streams, so that they can be resumed elsewhere exactly.
2. Members of `kv_transfer_params` reserved for Llumnix are removed if a client sets them.
3. A tag is added that tells the instance that a request may be migrated, and its class.
4. A signed resume field is added when a request moves.

A byte order mark is removed, and what is in another encoding than UTF-8 is put in UTF-8.
Members are added textually before the last brace, and win over earlier ones of the same name; only
for 2 is the body rewritten from its parsed form.
"""

import json
from collections.abc import Mapping
from typing import Any

_UNCOMMON = (b"{", b" ", b"\n", b"\r", b"\t", b"\v", b"\f")
RESUME_FIELD = "llumnix"
TAG_FIELD = "llumnix_request"
TRANSFER_PARAMS = "kv_transfer_params"


def in_utf8(raw: bytes) -> bytes:
    """Return JSON in UTF-8 without a byte order mark, as the edits here need it.

    Servers read the other encodings of Unicode too. Raises ValueError if it is in none of them.
    """
    encoding = json.detect_encoding(raw)
    if encoding == "utf-8":
        return raw
    return raw.decode(encoding).encode("utf-8", "surrogatepass")


def with_member(raw: bytes, name: str, value: object) -> bytes:
    """Add a member to a JSON object; see `with_members`."""
    return with_members(raw, {name: value})


def with_members(raw: bytes, members: Mapping[str, object]) -> bytes:
    """Add members at the end of a JSON object; each wins over an earlier one of the same name.

    The object is not parsed again, however large it is. `raw` must be one JSON object in UTF-8.
    Readers take the last of equal names (Python's, Rust's and Go's JSON parsers do).
    """
    brace = _last_of(raw, len(raw))
    assert raw[brace : brace + 1] == b"}", "a JSON object ends with a brace"
    end = _last_of(raw, brace)
    comma = b"" if raw[end : end + 1] == b"{" else b","
    added = json.dumps(members, separators=(",", ":")).encode()
    # One copy, and of a large body without the interpreter's lock.
    return b"".join((memoryview(raw)[: end + 1], comma, memoryview(added)[1:]))


def asking_ids(raw: bytes) -> bytes:
    """Ask for token ids; see `with_members`, which this is for the commonest of members."""
    brace = raw.rstrip()[:-1].rstrip() if raw[-1:] != b"}" else raw[:-1]
    if brace[-1:] in _UNCOMMON:
        return with_member(raw, "return_token_ids", value=True)
    return brace + b',"return_token_ids":true}'


def _last_of(raw: bytes, end: int) -> int:
    """Return the place of the last byte before `end` that is no white space."""
    while raw[end - 1 : end].isspace():
        end -= 1
    return end - 1


def without_forged(raw: bytes, parsed: dict[str, Any]) -> tuple[bytes, bool]:
    """Remove reserved fields from a client's body (and `parsed`); return whether it had any."""
    params = parsed.get(TRANSFER_PARAMS)
    if not isinstance(params, dict) or not params.keys() & {RESUME_FIELD, TAG_FIELD}:
        return raw, False
    params.pop(RESUME_FIELD, None)
    params.pop(TAG_FIELD, None)
    return dump(parsed), True


def transfer_params(parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the transfer parameters that a client gives of its own."""
    params = parsed.get(TRANSFER_PARAMS)
    return params if isinstance(params, dict) else {}


def with_transfer(raw: bytes, fields: Mapping[str, object], own: Mapping[str, object]) -> bytes:
    """Add transfer parameters to a body; `own` are those that it has already."""
    return with_member(raw, TRANSFER_PARAMS, {**own, **fields})


def dump(parsed: Mapping[str, Any]) -> bytes:
    """Serialize a body, escaped to ASCII: a client's lone surrogates have no UTF-8 form."""
    return json.dumps(parsed, separators=(",", ":")).encode()
