"""Why an instance is not up, and what to do about it."""

import enum
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp

_DETAIL_CHARACTERS = 300


class Cause(enum.StrEnum):
    """The kinds of reasons for which an instance is not up."""

    UNKNOWN_HOST = "unknown_host"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    TLS = "tls"
    UNAUTHORIZED = "unauthorized"
    NOT_OPENAI = "not_openai"
    DUPLICATE = "duplicate"
    CONTROL_PORT = "control_port"
    LOST = "lost"
    INTERNAL = "internal"


_HINTS = {
    Cause.UNKNOWN_HOST: "check the host's name and this machine's DNS",
    Cause.UNREACHABLE: "start it, or check host, port and firewall",
    Cause.SILENT: "check its load and its log",
    Cause.TLS: "name its authority with --instance-ca-file, and our own certificate with "
    "--instance-cert-file if it asks for one",
    Cause.UNAUTHORIZED: "give its API key with --instance-api-key-file, or in "
    "LLUMNIX_INSTANCE_API_KEY",
    Cause.NOT_OPENAI: "give the base URL of an OpenAI-compatible server, the part before /v1",
    Cause.DUPLICATE: "give each server once",
    Cause.CONTROL_PORT: "open its control port to this machine, and give both sides the same "
    "secret",
    Cause.LOST: "check its log",
    Cause.INTERNAL: "please report this with the frontend's log",
}
_PLAIN_HTTP = "it speaks plain HTTP; give its URL as http://"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One reason why an instance is not up: the cause decides, the rest is for people."""

    cause: Cause
    detail: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.detail}; {self.advice}"

    @property
    def advice(self) -> str:
        """Return what to do about it."""
        return self.hint or _HINTS[self.cause]


class ContactFailed(Exception):  # noqa: N818 - what the server said, not what we did
    """A server cannot join the fleet, and said why, or showed it."""

    def __init__(self, cause: Cause, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.trouble = Trouble(cause, _cut(detail), hint)


def trouble_of(error: BaseException, timeout_s: float) -> Trouble:
    """Say what an error in contacting a server means; `timeout_s` is what it was given."""
    if isinstance(error, ContactFailed):
        return error.trouble
    chain = list(_chain(error))
    for each in chain:
        # aiohttp's own errors are some of ssl's as well, without saying what those say.
        if isinstance(each, ssl.SSLError) and not isinstance(each, aiohttp.ClientError):
            return _tls(each)
        if isinstance(each, aiohttp.ServerFingerprintMismatch):
            return Trouble(Cause.TLS, "its certificate is not the expected one")
    if any(isinstance(each, socket.gaierror) for each in chain):
        return Trouble(Cause.UNKNOWN_HOST, _cut(f"its host is not known: {_text(error)}"))
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientConnectorError):
        return Trouble(Cause.SILENT, f"it did not answer within {timeout_s:g} s")
    if isinstance(error, aiohttp.ClientResponseError):
        return Trouble(Cause.NOT_OPENAI, _cut(f"it does not speak HTTP: {_text(error)}"))
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return Trouble(Cause.UNREACHABLE, _cut(f"it broke off: {_text(error)}"))
    if isinstance(error, OSError | aiohttp.ClientError):
        return Trouble(Cause.UNREACHABLE, _cut(f"it takes no connection: {_text(error)}"))
    return Trouble(Cause.INTERNAL, _cut(f"{type(error).__name__}: {error}"))


def _tls(error: ssl.SSLError) -> Trouble:
    # Only errors that OpenSSL itself reports have a reason.
    reason = getattr(error, "reason", "") or ""
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return Trouble(Cause.TLS, "its answer is not TLS", _PLAIN_HTTP)
    told = getattr(error, "verify_message", "") or reason or str(error)
    return Trouble(Cause.TLS, _cut(f"no TLS connection: {told}"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those it was made of; aiohttp keeps some in attributes."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            yield each
            todo += [each.__cause__, getattr(each, "os_error", None)]
            todo.append(getattr(each, "certificate_error", None))


def _text(error: BaseException) -> str:
    inner = getattr(error, "os_error", error)
    number = getattr(inner, "errno", None)
    # asyncio writes the address in place of what the number means.
    if number and not isinstance(inner, socket.gaierror | ssl.SSLError):
        return os.strerror(number).lower()
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARACTERS else line[: _DETAIL_CHARACTERS - 1] + "…"
