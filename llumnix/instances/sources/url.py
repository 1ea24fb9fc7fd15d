"""The URLs of sources: where to ask, and how the servers found there are reached. Pure."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from llumnix.instances.config import InstanceSpec
from llumnix.instances.endpoints.address import Address, BadAddress


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A source's URL in its parts; `port` is None if it gives none, `query` holds its options."""

    spec: InstanceSpec
    host: str
    port: int | None
    path: str
    query: Mapping[str, str]

    @classmethod
    def parse(cls, spec: InstanceSpec, options: tuple[str, ...] = ()) -> Self:
        """Read a spec's URL, of which these options are known. Raises BadAddress."""
        split = urlsplit(spec.url.strip())
        if "@" in split.netloc:
            raise BadAddress(f"a {spec.source}:// URL must not contain a user or password")
        try:
            port = split.port
        except ValueError as error:
            raise BadAddress(f"the port in {spec.url!r} must be a number to 65535") from error
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        for name in query:
            if name not in options:
                known = f"known: {', '.join(options)}" if options else "it takes none"
                raise BadAddress(f"unknown option {name!r} in {spec.url!r}; {known}")
        return cls(spec, split.hostname or "", port, split.path, query)

    @property
    def scheme(self) -> str:
        """Return how the servers are reached: http or https."""
        return "https" if self.spec.source.endswith("+https") else "http"

    def server(self, host: str, port: int, path: str = "", server_name: str = "") -> InstanceSpec:
        """Return the spec of a server found: its key and TLS settings are those of the source.

        `server_name` is the name on its certificate, unless the source's settings say another.
        """
        shown = f"[{host}]" if ":" in host else host
        url = Address.parse(f"{self.scheme}://{shown}:{port}{path}").url
        name = self.spec.server_name or (server_name if self.scheme == "https" else "")
        return dataclasses.replace(self.spec, url=url, server_name=name)
