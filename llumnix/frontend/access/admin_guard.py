"""Who may use the admin API: the holder of the token, and no web page on anybody's behalf."""

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from llumnix.frontend.request.refusal import Refusal

# Reads change nothing, and no browser sends DELETE to another origin without asking that first.
_UNDECLARED = frozenset({"GET", "HEAD", "DELETE"})
_OWN_PAGES = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True)
class AdminGuard:
    """Checks the headers of an admin request.

    Without a token (only ever on a loopback address) a web page in the user's browser could reach
    the API, so the guard also refuses what only a page would send: a foreign Origin, a host name
    that was rebound to this machine, an order that is not declared as JSON.
    """

    token: str = field(repr=False)

    def refusal(self, method: str, headers: Mapping[str, str]) -> Refusal | None:
        """Return why a request is refused; None if it may pass."""
        if _from_a_page(headers) or (not self.token and not _names_loopback(headers.get("Host"))):
            return Refusal(403, "the admin API takes no requests from web pages", "cross_origin")
        if self.token and not _holds(self.token, headers.get("Authorization", "")):
            return Refusal(
                401,
                "the admin API needs its token: Authorization: Bearer <token>",
                "invalid_admin_token",
            )
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if method not in _UNDECLARED and kind != "application/json":
            return Refusal(415, "orders need Content-Type: application/json", "not_json")
        return None


def _holds(token: str, authorization: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    # Compared as bytes: a str with other than ASCII characters would raise.
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    return same and scheme.lower() == "bearer"


def _from_a_page(headers: Mapping[str, str]) -> bool:
    site = headers.get("Sec-Fetch-Site")
    if site is not None and site.lower() not in _OWN_PAGES:
        return True
    origin = headers.get("Origin")
    if origin is None:
        return False
    return urlsplit(origin).netloc.lower() != headers.get("Host", "").lower()


def _names_loopback(host: str | None) -> bool:
    """Whether a Host header names this machine; browsers always send one."""
    if host is None:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
