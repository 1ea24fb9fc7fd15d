"""The only edits a request body suffers on its way to an instance; otherwise it keeps its bytes.

1. `"return_token_ids":true` is added to streams, so that they can be carried on elsewhere exactly.
2. A client's own `kv_transfer_params.llumnix` is taken out: resuming is ours to ask for.
3. Our signed resume field is added when a request moves.

Members are added textually before the last brace; only where that cannot be done (2, and 3 when the
client has `kv_transfer_params` of its own) is the body written anew from its parsed form.
"""

import json
from collections.abc import Mapping
from typing import Any

RESUME_FIELD = "llumnix"
TRANSFER_PARAMS = "kv_transfer_params"


def with_member(raw: bytes, name: str, value: object) -> bytes:
    """Add a member at the end of a JSON object; where the name is there already, ours wins.

    `raw` must be one JSON object in UTF-8. Readers take the last of equal names (Python's, Rust's
    and Go's JSON parsers do).
    """
    head = raw.rstrip()
    assert head.endswith(b"}"), "a JSON object ends with a brace"
    head = head[:-1].rstrip()
    comma = b"" if head.endswith(b"{") else b","
    text = json.dumps(value, separators=(",", ":"))
    return b"%b%b%b:%b}" % (head, comma, json.dumps(name).encode(), text.encode())


def without_forged_resume(raw: bytes, parsed: dict[str, Any]) -> tuple[bytes, bool]:
    """Take a client's resume field out of the body (and of `parsed`); say whether there was one."""
    params = parsed.get(TRANSFER_PARAMS)
    if not isinstance(params, dict) or RESUME_FIELD not in params:
        return raw, False
    del params[RESUME_FIELD]
    return _dump(parsed), True


def with_resume(raw: bytes, fields: Mapping[str, object]) -> bytes:
    """Add signed resume fields to a body, beside whatever transfer parameters the client gave."""
    if b'"%b"' % TRANSFER_PARAMS.encode() not in raw and b"\\u" not in raw:
        return with_member(raw, TRANSFER_PARAMS, {RESUME_FIELD: dict(fields)})
    parsed: dict[str, Any] = json.loads(raw)
    params = parsed.get(TRANSFER_PARAMS)
    parsed[TRANSFER_PARAMS] = {
        **(params if isinstance(params, dict) else {}),
        RESUME_FIELD: dict(fields),
    }
    return _dump(parsed)


def _dump(parsed: dict[str, Any]) -> bytes:
    # Escaped to ASCII: a lone surrogate in a client's text has no UTF-8 form.
    return json.dumps(parsed, separators=(",", ":")).encode()
