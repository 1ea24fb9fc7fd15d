"""Send a request to an instance and wait for the first bytes of its response."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from llumnix.fleet.requests import Cuttable, nothing
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.connection import (
    IDLE_S,
    Connection,
    ConnectionPool,
    InstanceUnreachable,
    Sink,
)
from llumnix.frontend.http.idle import IdleWatch
from llumnix.frontend.http.outcome import (
    Failure,
    FailureKind,
    UpstreamAnswer,
    refused_for_now,
    retry_after_s,
)
from llumnix.frontend.http.probe import LifeProbe
from llumnix.frontend.http.response import HEAD_LIMIT_BYTES, Head
from llumnix.instances.condition.shortage import is_ours
from llumnix.instances.instance import Instance

_DETAIL_CHARACTERS = 300
_NOW = 0.0
"""A deadline that has always passed, on the event loop's clock."""
_NO_HEAD = Head(0, CIMultiDictProxy(CIMultiDict()), keeps=False)


@dataclass(frozen=True, slots=True)
class Late:
    """Decides about a stream that has not begun within `limit_s` wall seconds.

    `decide` is given for how long nothing has come, and returns the kind of failure that this is,
    or None to wait on.
    """

    limit_s: float
    decide: Callable[[float], FailureKind | None]


class Leg:
    """A stream that has begun on one instance; `first` holds its first bytes.

    `asked_at` is when it was asked for, in wall seconds.
    """

    def __init__(
        self, instance: Instance, pool: ConnectionPool, connection: Connection, head: Head
    ) -> None:
        self.instance = instance
        self.head = head
        self.first = b""
        self.asked_at = 0.0
        self._pool = pool
        self._connection = connection
        self._closed = False

    async def read(self) -> bytes:
        """Wait for more; b"" at the end. Raises OSError when it is cut off."""
        return await self._connection.read()

    async def pour(self, sink: Sink) -> None:
        """Pass everything that arrives to `sink`, until it returns False or the stream is over."""
        await self._connection.pour(sink)

    @classmethod
    def begun(cls, instance: Instance, pool: ConnectionPool, connection: Connection) -> "Leg":
        """Return a stream whose head and first bytes are there, asked for by somebody else."""
        head, _ = connection.now()
        assert head is not None, "it has begun"
        leg = cls(instance, pool, connection, head)
        leg.first = connection.take()
        return leg

    @property
    def connection(self) -> Connection:
        """The connection that it comes over."""
        return self._connection

    def close(self) -> None:
        """Close the connection; if the stream has not ended, that cancels the request."""
        if not self._closed:
            self._closed = True
            self._pool.give_back(self.instance.endpoint, self._connection)


class Upstream:
    """The client side of all instances: `pool` for completions, `session` for everything else."""

    def __init__(self, config: FrontendConfig) -> None:
        self._first_byte_timeout_s = config.first_byte_timeout_s
        self._answer_timeout_s = config.answer_timeout_s
        self.pool = ConnectionPool(config.connect_timeout_s)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=0, ttl_dns_cache=60, keepalive_timeout=IDLE_S
            ),
            trace_configs=[_reuse_tracing()],
            max_line_size=HEAD_LIMIT_BYTES,
            max_field_size=HEAD_LIMIT_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        self.probe = LifeProbe(self.session)

    async def close(self) -> None:
        """Close all connections."""
        self.pool.close()
        await self.probe.close()
        await self.session.close()

    async def send(
        self,
        instance: Instance,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        streams: bool,
        waiting: Cuttable,
        patience: Late | None = None,
    ) -> Leg | UpstreamAnswer | Failure:
        """Post a request; return a stream with its first bytes, a whole answer, or a Failure.

        Server errors (5xx) and 429 are failures: another instance may do better. `waiting` is told
        how to end the wait. `patience` is asked whether to go on waiting for a stream.
        """
        deadline_s = self._first_byte_timeout_s if streams else self._answer_timeout_s
        asked_at = time.monotonic()
        ended: list[FailureKind] = []

        def late(silent_s: float) -> None:
            if patience is not None and (kind := patience.decide(silent_s)) is not None:
                ended.append(kind)
                cut(deadline)

        limit_s = min(patience.limit_s if patience is not None else deadline_s, deadline_s)
        leg: Leg | None = None
        result: Leg | UpstreamAnswer | Failure | None = None
        try:
            async with asyncio.timeout(deadline_s) as deadline:
                waiting.cut_by(partial(cut, deadline))
                endpoint = instance.endpoint
                connection = await self.pool.ask(endpoint, path, endpoint.headers(headers), body)
                leg = Leg(instance, self.pool, connection, _NO_HEAD)
                leg.asked_at = asked_at
                with IdleWatch(limit_s, late):
                    leg.head = await connection.head()
                    result = await _receive(leg)
                return result
        except InstanceUnreachable as error:
            if is_ours(error):
                return Failure(FailureKind.STARVED, f"no connection can be opened: {error}")
            return Failure(FailureKind.REFUSED, f"{instance.id} refuses connections: {error}")
        except TimeoutError:
            waited_s = time.monotonic() - asked_at
            if ended:
                return Failure(ended[0], f"{instance.id} sent nothing for {waited_s:.1f} s")
            if was_cut(deadline):
                return Failure(FailureKind.CUT, f"{instance.id} went down")
            return Failure(FailureKind.STALLED, f"{instance.id} sent nothing for {deadline_s:g} s")
        except OSError as error:
            return Failure(FailureKind.BROKEN, f"{instance.id} broke off: {error!r}")
        finally:
            waiting.cut_by(nothing)
            if leg is not None and result is not leg:
                leg.close()


@dataclass(slots=True)
class Reuse:
    """Whether a request was sent on a connection kept alive, which the server may have closed.

    Give it to a request of the session as `trace_request_ctx`.
    """

    reused: bool = False


def _reuse_tracing() -> aiohttp.TraceConfig:
    async def note(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        trace = context.trace_request_ctx
        if isinstance(trace, Reuse):
            trace.reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(note)
    return config


def cut(wait: asyncio.Timeout) -> None:
    """End a wait at once; `was_cut` tells it from one that has lasted too long."""
    if not wait.expired():
        wait.reschedule(_NOW)


def was_cut(wait: asyncio.Timeout) -> bool:
    """Whether a wait was ended by `cut`."""
    return wait.when() == _NOW


async def _receive(leg: Leg) -> Leg | UpstreamAnswer | Failure:
    status, instance = leg.head.status, leg.instance
    if status == 200 and leg.head.content_type == "text/event-stream":
        leg.first = await leg.read()
        if leg.first:
            return leg
        return Failure(FailureKind.BROKEN, f"{instance.id} ended its stream before it began")
    parts: list[bytes] = []
    while part := await leg.read():
        parts.append(part)
    return judged(UpstreamAnswer(status, leg.head.headers, b"".join(parts), instance), leg.head)


def judged(answer: UpstreamAnswer, head: Head) -> UpstreamAnswer | Failure:
    """Return a whole answer, or the failure that it tells of: another instance may do better."""
    status, instance = answer.status, answer.instance
    busy = refused_for_now(status, head.content_type)
    if status < 500 and not busy:
        return answer
    text = answer.body.decode(errors="replace")[:_DETAIL_CHARACTERS]
    detail = f"{instance.id} answered {status}: {text}"
    if not busy:
        return Failure(FailureKind.ANSWERED, detail, status)
    wait_s = retry_after_s(head.headers.get("Retry-After"))
    return Failure(FailureKind.BUSY, detail, status, wait_s, answer)
