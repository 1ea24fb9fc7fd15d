"""A log line from its fields: logfmt or JSON. Pure.

A line never contains a line break or a control character, whatever a field holds, so that what a
client sends cannot forge a second line.
"""

import json
import re
from collections.abc import Mapping, Sequence

LONGEST_VALUE = 4000
"""Characters of one value that are logged; a traceback is the only one to get near."""

_BARE = re.compile(r"[!#-<>-\[\]-~]+")
"""What logfmt lets stand without quotes: printable ASCII but space, `"`, `=` and the backslash."""


def logfmt(fields: Mapping[str, object]) -> str:
    """Return the fields as `key=value` pairs; a value that needs it is quoted as in JSON."""
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def json_line(fields: Mapping[str, object]) -> str:
    """Return the fields as one JSON object."""
    plain = {name: _plain(value) for name, value in fields.items()}
    return json.dumps(plain, separators=(",", ":"))


def _value(value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, str):
        return plain if _BARE.fullmatch(plain) else json.dumps(plain)
    if isinstance(plain, float):
        return repr(plain)
    if isinstance(plain, list):
        joined = ",".join(map(str, plain))
        return joined if _BARE.fullmatch(joined) else json.dumps(joined)
    return json.dumps(plain)


def _plain(value: object) -> object:
    """Return a value that JSON knows."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6) if abs(value) < float("inf") else str(value)
    if isinstance(value, str):
        return str(value) if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "…"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in value]
    return _plain(str(value))
