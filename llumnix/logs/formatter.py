"""From a record of `logging` to a line of fields.

Code logs `log.warning("instance_down instance=%s reason=%s", id, reason)`: the words before the
values are the event and its keys, so a machine gets the values as they are. Whoever has many
values, or a varying set of them, passes `extra={"fields": {...}}` instead.
"""

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llumnix.logs.line import json_line, logfmt

_TEMPLATE = re.compile(r"(?:event=)?(\w+)((?: \w+=%[-+0-9.]*[a-z])*)")
_KEY = re.compile(r" (\w+)=")


class LineFormatter(logging.Formatter):
    """Formats each record as one line, tracebacks included."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = json_line if form == "json" else logfmt

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        return self._form(fields_of(record))


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what a record says: time, level, event, its own fields, and where it comes from."""
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    fields: dict[str, object] = {
        "time": at.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
    }
    fields.update(_said(record))
    fields["logger"] = record.name
    if record.exc_info and record.exc_info[0] is not None:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


def event_of(record: logging.LogRecord) -> str:
    """Return what a record is about, the same for all records of its kind."""
    found = _TEMPLATE.fullmatch(str(record.msg))
    return found.group(1) if found else str(record.msg)


def _said(record: logging.LogRecord) -> dict[str, object]:
    given: Mapping[str, Any] | None = getattr(record, "fields", None)
    found = _TEMPLATE.fullmatch(str(record.msg))
    if found is None:
        return {"event": "message", "text": record.getMessage(), **(given or {})}
    keys = _KEY.findall(found.group(2))
    values = record.args if isinstance(record.args, tuple) else (record.args,)
    return {"event": found.group(1), **dict(zip(keys, values, strict=False)), **(given or {})}
