"""How a path is spelled: as users mount it, as a server would read it, as it is forwarded."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

_SLASHES = re.compile(r"/{2,}")
_DOUBLED = re.compile(r"^(?:/v1)+(?=/v1/)")


@dataclass(frozen=True, slots=True)
class Spelling:
    """One path in three spellings.

    `raw` is the client's, less a mounting prefix. `tidy` is without doubled or trailing slashes and
    doubled `/v1`. `plain` is `tidy` as a server reads it, percent-encoding undone; it is empty for
    a path with `.` or `..` in it, which servers and proxies read differently.
    """

    raw: str
    tidy: str
    plain: str

    @classmethod
    def of(cls, path: str, base_path: str = "") -> Self:
        """Spell a path as received, without its query."""
        base = base_path.rstrip("/")
        raw = path if path.startswith("/") else f"/{path}"
        if base and (raw == base or raw.startswith(f"{base}/")):
            raw = raw[len(base) :] or "/"
        tidy = _SLASHES.sub("/", raw)
        tidy = _DOUBLED.sub("", tidy)
        tidy = tidy.rstrip("/") or "/"
        plain = unquote(tidy, errors="replace")
        dotted = any(part in (".", "..") for part in re.split(r"[/\\]", plain))
        return cls(raw, tidy, "" if dotted else plain)
