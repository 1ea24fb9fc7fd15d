"""The token of the admin API, and the file through which local commands find it.

A frontend without a token of its own makes one at start and publishes it, with its addresses, in
the user's runtime directory; only that user can read it. Nothing here logs a token.
"""

import json
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from llumnix.errors import ConfigError

TOKEN_VARIABLE: Final = "LLUMNIX_ADMIN_TOKEN"  # noqa: S105 - its name, not a token
URL_VARIABLE: Final = "LLUMNIX_ADMIN_URL"
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_MIN_CHARACTERS: Final = 16


@dataclass(frozen=True, slots=True)
class Published:
    """A running frontend of this user: its admin URL, its clients' URL, its token, its process."""

    admin_url: str
    url: str
    token: str = field(repr=False)
    pid: int

    def answers_to(self, wanted: str) -> bool:
        """Whether this is the frontend at a URL: by either of its ports, on this machine."""
        asked = urlsplit(wanted if "://" in wanted else f"http://{wanted}")
        try:
            port = asked.port
        except ValueError:
            return False
        known = {urlsplit(each).port for each in (self.admin_url, self.url)}
        return port in known and asked.hostname in LOOPBACK


def new_token() -> str:
    """Return a fresh token of 256 random bits."""
    return secrets.token_urlsafe(32)


def given_token(file: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the token in a file, else in the environment, else "".

    Raises ConfigError for a file that cannot be read, and for a token that could be guessed.
    """
    token = environment.get(TOKEN_VARIABLE, "").strip()
    source = TOKEN_VARIABLE
    if file:
        try:
            token, source = Path(file).read_text().strip(), file
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"cannot read the admin token in {file}: {reason}") from error
    if (file or token) and (len(token) < _MIN_CHARACTERS or not token.isascii()):
        raise ConfigError(
            f"the admin token in {source} must have at least {_MIN_CHARACTERS} ASCII characters: "
            "openssl rand -hex 32"
        )
    return token


def runtime_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return this user's directory for published tokens; it need not exist."""
    base = environment.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK | os.X_OK):
        return Path(base) / "llumnix"
    return Path(tempfile.gettempdir()) / f"llumnix-{os.getuid()}"


def publish(published: Published, directory: Path | None = None) -> Path:
    """Write a frontend's addresses and token to a file of mode 0600; raises OSError."""
    home = directory or runtime_directory()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(home):
        raise PermissionError(1, f"{home} is not this user's own directory of mode 0700")
    path = home / f"frontend-{urlsplit(published.admin_url).port}.json"
    fresh = home / f".{path.name}.{os.getpid()}"
    content = {
        "admin_url": published.admin_url,
        "url": published.url,
        "token": published.token,
        "pid": published.pid,
    }
    handle = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(content, file)
    fresh.replace(path)
    return path


def withdraw(path: Path, pid: int) -> None:
    """Remove a published file, unless another process has replaced it since."""
    published = _read(path)
    if published is not None and published.pid == pid:
        with suppress(OSError):
            path.unlink()


def all_published(directory: Path | None = None) -> list[Published]:
    """Return this user's running frontends on this machine."""
    home = directory or runtime_directory()
    if not _is_private(home):
        return []
    found = [_read(path) for path in sorted(home.glob("frontend-*.json"))]
    return [each for each in found if each is not None and _runs(each.pid)]


def _is_private(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return ours and not status.st_mode & 0o077


def _read(path: Path) -> Published | None:
    try:
        plain = json.loads(path.read_text())
        return Published(
            str(plain["admin_url"]), str(plain["url"]), str(plain["token"]), int(plain["pid"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
