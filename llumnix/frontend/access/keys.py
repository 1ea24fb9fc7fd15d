"""API keys: how they are made, how they are stored, and what each one allows.

A key is 256 random bits, so that its SHA-256 can be stored in place of it: nothing short of trying
all keys leads back, and checking one costs a request next to nothing.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from llumnix.config import build
from llumnix.errors import ConfigError
from llumnix.frontend.access.caller import Caller
from llumnix.frontend.access.limits import Limits

_PREFIX: Final = "llx-"
_HEX_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One entry of the keys file. Limits that are left out do not apply."""

    sha256: str = field(repr=False)
    tenant: str
    name: str = ""
    default_class: str | None = None
    highest_class: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None

    def __post_init__(self) -> None:
        digits = set(self.sha256)
        if len(self.sha256) != _HEX_CHARACTERS or not digits <= set("0123456789abcdef"):
            raise ValueError("sha256 must be 64 hexadecimal digits in lower case")
        if not self.tenant or not self.tenant.isprintable():
            raise ValueError("tenant must be a name")
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent_requests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

    def caller(self) -> Caller:
        """Return whom this key identifies, and what it allows."""
        limits = Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests)
        return Caller(self.tenant, self.name, self.default_class, self.highest_class, limits)


@dataclass(frozen=True, slots=True)
class _KeysFile:
    keys: tuple[StoredKey, ...] = ()


def new_key() -> str:
    """Return a fresh key."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return the hash that is stored for a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: str, class_names: Sequence[str]) -> dict[str, Caller]:
    """Read a keys file; return each key's caller by the key's hash.

    The file is YAML (or JSON): a list of entries, as `llumnix keys new` prints them. Raises
    ConfigError, which names the entry, for a file that cannot be used as a whole.
    """
    try:
        plain = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read the API keys in {path}: {reason}") from error
    except yaml.YAMLError as error:
        # YAML's own message quotes the line, and with it perhaps a key.
        raise ConfigError(f"{path} is not valid YAML{_place(error)}") from error
    stored = _entries(plain, path)
    callers: dict[str, Caller] = {}
    for number, each in enumerate(stored):
        for name in (each.default_class, each.highest_class):
            if name is not None and name not in class_names:
                known = ", ".join(class_names)
                raise ConfigError(f"{path}: keys[{number}]: unknown class {name!r}; known: {known}")
        if each.sha256 in callers:
            raise ConfigError(f"{path}: keys[{number}] repeats an earlier key")
        callers[each.sha256] = each.caller()
    return callers


def _entries(plain: Any, path: str) -> tuple[StoredKey, ...]:
    if isinstance(plain, Mapping) and set(plain) == {"keys"}:
        plain = plain["keys"]
    try:
        return build(_KeysFile, {"keys": plain or ()}, "").keys
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f": line {mark.line + 1}" if mark is not None else ""
