"""Where a response points to: never past the frontend, to an address that clients cannot reach."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from multidict import CIMultiDict

from llumnix.instances.instance import Instance

_NAMES = ("Location", "Content-Location")
_PORTS = {"http": 80, "https": 443}


def as_clients_see(headers: CIMultiDict[str], servers: Iterable[Instance]) -> None:
    """Rewrite where a response points to, if it is one of these servers.

    The server's address and prefix are removed, so that what is left is relative to the frontend,
    whatever clients call it.
    """
    if not any(name in headers for name in _NAMES):
        return
    base_urls = [each.url for each in servers]
    for name in _NAMES:
        given = headers.popall(name, ())
        for value in given:
            seen = (relative(value, each) for each in base_urls)
            headers.add(name, next((each for each in seen if each != value), value))


def relative(location: str, base_url: str) -> str:
    """Return a location relative to a server, if it points to that server; else as it is."""
    base = urlsplit(base_url)
    try:
        parts = urlsplit(location.strip())
        # A server behind another names its own scheme, and so the port that goes without saying.
        there = parts.port in (None, base.port or _PORTS.get(base.scheme))
    except ValueError:
        return location
    if parts.netloc:
        if not there or (parts.hostname or "").lower() != (base.hostname or "").lower():
            return location
    elif not location.startswith("/"):
        return location
    path = parts.path or "/"
    prefix = base.path.rstrip("/")
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :] or "/"
    # A path that begins with two slashes would name a host.
    path = "/" + path.lstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return path + query + fragment
