"""A server's description of itself: model, speed, and counters before and after a run."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp

from llumnix.admin.answer import SchemaError
from llumnix.admin.schema import FleetStatus, Totals
from llumnix.errors import Unreachable
from llumnix.loadgen.exchange import Endpoint

_TIMEOUT = aiohttp.ClientTimeout(total=10.0)

# A run in which more than one step in a hundred completed late measured the emulator, not the
# fleet it emulates.
LATE_STEPS_SHARE = 0.01
# A fleet lists only the downtimes of its last migrations.
KEPT_MOVES = 1000


@dataclass(frozen=True, slots=True)
class ServerState:
    """A snapshot of a server. For one that is not Llumnix, all but `model` is empty.

    `fleet` is the response of `/llumnix/fleet`, `engines` holds the `/llumnix/stats` of each
    emulated engine by URL. `speed` is None for a server that does not report it.
    """

    model: str
    speed: float | None = None
    emulated: bool = False
    fleet: FleetStatus | None = None
    engines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """Where a frontend's admin API is, if not at the clients' URL, and its token if it has one."""

    url: str
    token: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        """Return the headers that the token makes."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


async def probe(
    endpoint: Endpoint,
    headers: Mapping[str, str] | None = None,
    admin: AdminAddress | None = None,
) -> ServerState:
    """Take a snapshot of a server; raises Unreachable if it does not respond at all.

    `admin` says where a frontend's admin API is (default: at the same address).
    """
    at = admin or AdminAddress(endpoint.url)
    async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as session:
        try:
            models = await _get(session, f"{endpoint.url}/v1/models")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(
                f"no server responds at {endpoint.url} ({error or type(error).__name__}): is it "
                "running? `llumnix serve --emulate 4` starts one"
            ) from error
        data = models.get("data")
        model = str(data[0].get("id", "")) if isinstance(data, list) and data else ""
        page = await _get_if_there(session, f"{at.url}/llumnix/fleet", at.headers())
        fleet = _read(page)
        listed = fleet.instances if fleet else ()
        urls = [each.url.rstrip("/") for each in listed] or [endpoint.url]
        answers = await asyncio.gather(
            *(_get_if_there(session, f"{url}/llumnix/stats") for url in urls)
        )
        engines = {url: stats for url, stats in zip(urls, answers, strict=True) if stats}
        about = {} if fleet else await _get_if_there(session, f"{endpoint.url}/llumnix/instance")
    speed = fleet.speed if fleet else about.get("speed")
    return ServerState(model, float(speed) if speed else None, bool(engines), fleet, engines)


def _read(answer: Mapping[str, Any]) -> FleetStatus | None:
    """Read a Llumnix frontend's page; another server may have anything there, or nothing."""
    try:
        return FleetStatus.from_json(answer)
    except SchemaError:
        return None


async def _get(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    async with session.get(url, headers=headers) as response:
        if response.status != 200:
            return {}
        try:
            answer = await response.json(content_type=None)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}


async def _get_if_there(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    try:
        return await _get(session, url, headers)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return {}  # an instance may be gone, or unreachable from here


@dataclass(frozen=True, slots=True)
class FleetRun:
    """A fleet's own account of a run; None is unknown.

    Downtimes, gaps and the median decode step are in emulated milliseconds. `late_share` is the
    share of emulated engine steps that completed late; `late_p99_steps` is the 99th percentile of
    their lateness in the worst engine, in decode steps. `cached_prompt_tokens` were found in a
    prefix cache rather than computed. `instance_seconds` is the total time that machines were held.
    """

    policy: str = ""
    migration: bool | None = None
    migrations_committed: int | None = None
    migrations_aborted: int | None = None
    resumed: int | None = None
    downtimes_ms: tuple[float, ...] = ()
    gaps_ms: tuple[float, ...] = ()
    preemptions: int | None = None
    decode_step_p50_ms: float | None = None
    late_share: float | None = None
    late_p99_steps: float | None = None
    cached_prompt_tokens: int | None = None
    instance_seconds: float | None = None


def between(before: ServerState, after: ServerState) -> FleetRun:
    """Return what happened between two snapshots."""
    preemptions = decode_step_ms = late_share = late_p99_steps = None
    if after.engines:
        preemptions = sum(_grown(before, after, "preemptions").values())
        steps = sum(_grown(before, after, "lag", "steps").values())
        late = sum(_grown(before, after, "lag", "late_steps").values())
        late_share = late / steps if steps else 0.0
        late_p99_steps = max(_late_p99_steps(one, after.speed) for one in after.engines.values())
        decode_step_ms = median(
            float(stats["decode_step_ms"]["p50"]) for stats in after.engines.values()
        )
    ours = FleetRun() if after.fleet is None else _counted(before.fleet, after.fleet)
    return dataclasses.replace(
        ours,
        preemptions=preemptions,
        decode_step_p50_ms=decode_step_ms,
        late_share=late_share,
        late_p99_steps=late_p99_steps,
    )


def _counted(before: FleetStatus | None, after: FleetStatus) -> FleetRun:
    """Return what a frontend counted between two snapshots; one not yet there counted nothing."""
    old, new = before.totals if before else Totals(), after.totals
    committed = new.migrations_committed - old.migrations_committed

    def latest(were: Sequence[float], are: Sequence[float]) -> tuple[float, ...]:
        fresh = len(are) - len(were)
        if len(are) >= KEPT_MOVES:  # the ring is full: the oldest were overwritten
            fresh = max(fresh, min(committed, len(are)))
        return tuple(are[max(0, len(are) - fresh) :])

    return FleetRun(
        policy=after.policy,
        migration=after.migration,
        migrations_committed=committed,
        migrations_aborted=new.migrations_aborted - old.migrations_aborted,
        resumed=new.resumed - old.resumed,
        downtimes_ms=latest(old.downtime_ms, new.downtime_ms),
        gaps_ms=latest(old.gap_ms, new.gap_ms),
    )


def _late_p99_steps(stats: Mapping[str, Any], speed: float | None) -> float:
    """Return the 99th percentile of an engine's lateness, in decode steps; 0 if unknown."""
    late_s = float(stats["lag"].get("p99_s", 0.0))
    step_s = float(stats["decode_step_ms"].get("mean", 0.0)) / 1000 / (speed or 1.0)
    return late_s / step_s if step_s else 0.0


def _grown(before: ServerState, after: ServerState, *keys: str) -> dict[str, int]:
    """Return a counter's growth by engine; an engine started meanwhile counts from zero."""

    def read(stats: Any) -> int:
        for key in keys:
            stats = stats.get(key, 0) if isinstance(stats, Mapping) else 0
        return int(stats)

    return {
        url: read(stats) - read(before.engines.get(url)) for url, stats in after.engines.items()
    }
