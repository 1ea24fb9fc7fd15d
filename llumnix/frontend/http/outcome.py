"""How a request to an instance ended there: with an answer, or with a failure of some kind."""

import enum
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from multidict import CIMultiDictProxy

from llumnix.instances.instance import Instance

_GATEWAY = (502, 504)


class FailureKind(enum.StrEnum):
    """Why an instance gave no usable response."""

    REFUSED = "refused"
    """It accepts no connection: the request was never sent."""
    BROKEN = "broken"
    """The connection broke after the request was sent."""
    STALLED = "stalled"
    """It sent nothing before the deadline."""
    SILENT = "silent"
    """It sent nothing for longer than usual; it may merely be slow."""
    ANSWERED = "answered"
    """It answered with an error of its own."""
    BUSY = "busy"
    """It answered that it has no room now, or a gateway did in its place."""
    UNABLE = "unable"
    """It cannot do what this request needs; it is well otherwise."""
    STARVED = "starved"
    """This process lacks files, ports or memory; no instance is to blame."""
    CUT = "cut"
    """The fleet ended the wait: the instance was found dead or hung."""


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """A whole response, not streamed."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    instance: Instance


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an instance gave no usable response.

    `status` is that of an error response, and `answer` the response itself where clients may see
    it. `retry_after_s` is how long the instance asked to be left alone, 0 if it did not say.
    """

    kind: FailureKind
    detail: str
    status: int = 0
    retry_after_s: float = 0.0
    answer: UpstreamAnswer | None = None

    @property
    def was_there(self) -> bool:
        """Whether the request may have been on the instance's engine when this happened."""
        return self.kind is FailureKind.BROKEN or self.is_server_error

    @property
    def is_server_error(self) -> bool:
        """Whether the instance answered with an error that is not the request's."""
        return self.kind is FailureKind.ANSWERED and self.status >= 500


def retry_after_s(value: str | None, now_s: float | None = None) -> float:
    """Read a Retry-After header, in seconds or as a date; 0 if there is none, or none to read."""
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        until_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, until_s - (time.time() if now_s is None else now_s))


def refused_for_now(status: int, content_type: str) -> bool:
    """Whether an error response says "not now" rather than "not this request".

    A 502 or 504 that is no JSON comes from a gateway in front of an engine it cannot reach.
    """
    gateway = status in _GATEWAY and content_type != "application/json"
    return status in (429, 503) or gateway
