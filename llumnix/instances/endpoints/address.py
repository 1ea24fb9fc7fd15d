"""The address of a server, whatever way it was spelled."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
# What people paste from a client's settings: its base URL, or the whole path of a request.
_PASTED = re.compile(r"/v1(/models|/completions|/chat/completions)?$")


class BadAddress(ValueError):  # noqa: N818 - what was typed, not what we did
    """A text is not the address of a server; the message says what would be."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, in one spelling: two equal addresses are one server.

    `url` has no trailing slash and no `/v1`; paths of the API are appended to it. `path` is the
    part of it behind the host, and `netloc` what goes into a Host header. `name` is unique among
    addresses and names the instance until, and unless, it names itself.
    """

    url: str
    host: str
    port: int
    netloc: str
    path: str
    name: str

    @property
    def secure(self) -> bool:
        """Whether it is https."""
        return self.url.startswith("https:")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an http(s) URL as people write it. Raises BadAddress."""
        bare = text.strip()
        if "://" not in bare:
            raise BadAddress(
                f"an instance must be a URL such as http://{bare or 'gpu1:8000'} or "
                f"https://{bare or 'gpu1:8000'}, not {text!r}"
            )
        split = _split(bare)
        host, port = _host(split), _port(split)
        default = _DEFAULT_PORTS[split.scheme]
        shown = f"[{host}]" if ":" in host else host
        netloc = shown if port == default else f"{shown}:{port}"
        path = _PASTED.sub("", split.path.rstrip("/")).rstrip("/")
        # Without its port, https://gpu1 would be called what http://gpu1 is.
        name = f"{shown}:{port}" if split.scheme == "https" else netloc
        return cls(f"{split.scheme}://{netloc}{path}", host, port, netloc, path, name + path)


def _split(text: str) -> SplitResult:
    if any(letter.isspace() or not letter.isprintable() for letter in text):
        raise BadAddress("an instance's URL must not contain spaces or control characters")
    try:
        split = urlsplit(text)
    except ValueError as error:
        raise BadAddress(f"an instance's URL is malformed: {error}") from error
    if "@" in split.netloc:  # never quoted: it may hold a password
        raise BadAddress(
            "an instance's URL must not contain a user or password; put the server's API key into "
            "a file and name it with --instance-api-key-file, or as api_key_file of this instance"
        )
    if split.scheme not in _DEFAULT_PORTS:
        raise BadAddress(f"an instance must be an http:// or https:// URL, not {text!r}")
    if split.query or split.fragment:
        raise BadAddress(f"an instance's URL must end with its path, unlike {text!r}")
    return split


def _host(split: SplitResult) -> str:
    host = split.hostname or ""
    try:
        plain = host if ":" in host else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BadAddress(f"{host!r} is not the name of a host: {error}") from error
    if not plain:
        raise BadAddress(f"an instance's URL must name a host, unlike {split.geturl()!r}")
    return plain


def _port(split: SplitResult) -> int:
    try:
        port = _DEFAULT_PORTS[split.scheme] if split.port is None else split.port
    except ValueError:
        port = 0
    if not port:
        raise BadAddress(f"the port in {split.geturl()!r} must be a number from 1 to 65535")
    return port
