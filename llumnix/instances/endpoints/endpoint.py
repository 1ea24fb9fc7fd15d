"""How to reach a server: its address, our key for it, and its TLS settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from ssl import SSLContext
from typing import Self, TypedDict

from multidict import CIMultiDict

from llumnix.instances.endpoints.address import Address
from llumnix.instances.endpoints.tls import ClientContext, client_context

_AUTHORIZATION = "Authorization"


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that is sent but never shown: no log, answer or traceback holds it."""

    text: str

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self.text)


NO_SECRET = Secret("")


class Reach(TypedDict):
    """How to send a server a request, as arguments of aiohttp's client."""

    headers: Mapping[str, str]
    ssl: SSLContext | bool
    server_hostname: str | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What it takes to send a server requests.

    `key` is our own API key for it; empty, clients' keys are forwarded. `tls` is shared by all
    connections, since making a context costs tens of milliseconds; None for plain http.
    `server_name` is the host name on its certificate, where that is not its address.
    """

    address: Address
    key: Secret = NO_SECRET
    tls: ClientContext | None = None
    server_name: str = ""

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the endpoint of a server that needs no key of ours. Raises BadAddress."""
        address = Address.parse(url)
        return cls(address, tls=client_context() if address.secure else None)

    @property
    def url(self) -> str:
        """Return its base URL, without a trailing slash and without `/v1`."""
        return self.address.url

    def reach(self, client_headers: Mapping[str, str]) -> Reach:
        """Return how to send it a request with aiohttp; see `headers`."""
        return {
            "headers": self.headers(client_headers),
            "ssl": True if self.tls is None else self.tls,
            "server_hostname": self.server_name or None,
        }

    def headers(self, client_headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers to send it: our key for it replaces the client's."""
        if not self.key:
            return client_headers
        # Repeated headers stay repeated; setting a key replaces all of its values.
        onward = CIMultiDict(client_headers)
        onward[_AUTHORIZATION] = f"Bearer {self.key.text}"
        return onward
