"""The link to an unmodified server: its load is read from its Prometheus metrics.

vLLM writes `vllm:name`, which some exporters escape to `vllm_name`; both are understood. What a
server does not report is estimated, so that the same policies work, only less precisely.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

import aiohttp

from llumnix.instances.condition.shortage import is_ours
from llumnix.instances.condition.silence import Usual
from llumnix.instances.condition.standstill import Standstill
from llumnix.instances.condition.trouble import ContactFailed, trouble_of
from llumnix.instances.config import FleetConfig
from llumnix.instances.discovery import fetch_metrics
from llumnix.instances.exposition import LLUMLET, PREFIXES, believable, info, samples
from llumnix.instances.instance import Identity, Instance, InstanceListener, MigrationOrder
from policies.types import InstanceId, InstanceLoad, RequestId

_TYPICAL_CONTEXT_TOKENS = 512
_STARTED = "process_start_time_seconds"
_CACHE = "cache_config_info"
_USAGES = ("kv_cache_usage_perc", "gpu_cache_usage_perc")
_COUNTS = ("num_requests_running", "num_requests_waiting")
_PROGRESS = (
    *("generation_tokens_total", "prompt_tokens_total", "iteration_tokens_total_count"),
    *("num_preemptions_total", *_USAGES),
)
"""What moves as long as an engine does."""
_GAPS = 4.0
_LATE_S = 0.1
_SHORTEST_POLL_S = 0.5
_MARKS = tuple(prefix + name for prefix in PREFIXES for name in _PROGRESS)
_GAUGES = tuple(prefix + name for prefix in PREFIXES for name in (_CACHE, *_USAGES, *_COUNTS))

LocalCount = Callable[[], int]
"""Counts the frontend's requests at the instance: all that is known of one without metrics."""


class UntouchedLink:
    """Polls a server until it stops responding.

    With `wants_llumlet` the link is given up, so that the server is identified again, once its page
    announces the plugin: the page may be served before the plugin is ready. `flowed_at_s` says when
    a stream of the server last brought something: a sign of life like a poll.
    """

    def __init__(
        self,
        instance: Instance,
        identity: Identity,
        session: aiohttp.ClientSession,
        config: FleetConfig,
        watcher: InstanceListener,
        now_s: Callable[[], float],
        local_count: LocalCount,
        class_index: int,
        *,
        wants_llumlet: bool = False,
        flowed_at_s: Callable[[], float] = float,
    ) -> None:
        self._flowed_at_s = flowed_at_s
        self._usual = Usual()
        self._standstill = Standstill(config.step_timeout_s)
        self._wants_llumlet = wants_llumlet
        self._uptime = Uptime(time.time())
        self._instance = instance
        self._id = identity.instance_id
        self._session = session
        self._config = config
        self._watcher = watcher
        self._now_s = now_s
        self._local_count = local_count
        self._class_index = class_index
        self._given_up = asyncio.Event()
        self._reason = ""

    async def lost(self) -> str:
        """Poll until the server does not respond within the deadlines, or is given up."""
        heard_at_s = time.monotonic()
        while not self._given_up.is_set():
            began_s = time.monotonic()
            deadline_s = self._poll_deadline_s(began_s, heard_at_s)
            try:
                async with asyncio.timeout(deadline_s):
                    await self._poll()
                heard_at_s = time.monotonic()
                self._usual.saw(heard_at_s - began_s, heard_at_s)
            except (aiohttp.ClientError, OSError, TimeoutError, ContactFailed) as error:
                now_s = time.monotonic()
                if is_ours(error):
                    heard_at_s = now_s  # we cannot tell
                elif isinstance(error, aiohttp.ClientConnectorError):
                    return f"it refuses connections: {error.strerror}"
                if self._instance.load is None:  # not up yet: it shall say why
                    self._instance.trouble = trouble_of(error, self._config.contact_timeout_s)
                # If the deadline came late, so did all else here: the delay is not its silence.
                heard_at_s += max(0.0, now_s - began_s - deadline_s - _LATE_S)
                silent_s = now_s - max(heard_at_s, self._flowed_at_s())
                if silent_s >= self._limit_s(now_s):
                    return f"no response for {silent_s:.1f} s: {error!r}"
            await self._pause()
        return self._reason

    def _limit_s(self, now_s: float) -> float:
        """Return how long it may be silent: longer if it is usually slow to answer."""
        usual_s = self._config.poll_interval_s + _GAPS * self._usual.longest_s(now_s)
        return max(self._config.report_timeout_s, usual_s)

    def _poll_deadline_s(self, now_s: float, heard_at_s: float) -> float:
        """Return how long to wait for a poll, so that silence is noticed when it is too long."""
        if self._instance.load is None:
            return self._config.contact_timeout_s
        left_s = heard_at_s + self._limit_s(now_s) - now_s
        return min(self._config.contact_timeout_s, max(left_s, _SHORTEST_POLL_S))

    def give_up(self, reason: str) -> None:
        """Stop polling: something else found the server gone."""
        self._reason = reason
        self._given_up.set()

    async def migrate_out(self, move: MigrationOrder) -> None:
        """Refuse: there is no llumlet to order."""
        raise OSError(f"{self._id} has no llumlet: {move.migration_id} cannot start")

    async def drain(self, on: bool) -> None:
        """Do nothing: the fleet stops sending requests, and those on the server will end."""

    async def recall(self, _request_id: RequestId, _owner: str, _timeout_s: float) -> None:
        """Return None: a server without the plugin remembers nothing."""

    async def close(self) -> None:
        """Do nothing: there is no connection to close."""

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._config.poll_interval_s):
                await self._given_up.wait()
        except TimeoutError:
            return

    async def _poll(self) -> None:
        asked_at_s = self._now_s()
        text = await fetch_metrics(self._session, self._instance.endpoint)
        if self._wants_llumlet and info(text, LLUMLET) is not None:
            self.give_up("its llumlet has appeared")
            return
        if self._uptime.restarted(text):
            self.give_up("it was restarted")
            return
        load = read_load(
            self._id,
            text,
            self._local_count(),
            self._config.assumed_capacity_tokens,
            self._class_index,
        )
        self._instance.take_load(load, asked_at_s)
        self._watch_steps(text, sum(load.running))
        self._watcher.reported(self._instance, None)

    def _watch_steps(self, text: str, running: int) -> None:
        mark = progress(text)
        # A hung engine does not even see what it is sent.
        probed = self._instance.fitness.hung and self._local_count()
        if mark:
            motion = self._standstill.observe(
                mark, running=bool(running or probed), now_s=time.monotonic()
            )
            self._watcher.engine_seen(self._instance, motion)


def progress(text: str) -> tuple[float, ...]:
    """Return numbers that change as long as vLLM's engine steps; none if the page lacks them.

    A page without counters of tokens tells nothing: a full cache is no standstill.
    """
    found = list(samples(text, _MARKS))
    counted = any("tokens_total" in sample.name for sample in found)
    return tuple(sample.value for sample in found) if counted else ()


class Uptime:
    """Notices a server that restarts, perhaps with another model, between two polls.

    Its process then started after we met it (Unix time) and later than on any page before. Only
    both tell: its clock may be ahead of ours, and a load balancer's pages are of several processes.
    """

    def __init__(self, met_at_s: float) -> None:
        self._met_at_s = met_at_s
        self._latest_s: float | None = None

    def restarted(self, text: str) -> bool:
        """Take in a page; return whether it is of a process that replaced the one before."""
        told = [each.value for each in samples(text, (_STARTED,)) if believable(each.value)]
        if not told:
            return False
        started_s, latest_s = min(told), self._latest_s
        self._latest_s = started_s if latest_s is None else max(started_s, latest_s)
        return latest_s is not None and started_s > max(latest_s, self._met_at_s)


def read_load(
    instance_id: InstanceId, text: str, local: int, assumed_capacity_tokens: int, class_index: int
) -> InstanceLoad:
    """Turn a metrics page into a load; `local` stands in for what the page lacks.

    All requests count as one class (`class_index`): the page does not name classes.
    """
    told = _read_gauges(text)
    running = round(told.get("num_requests_running", local))
    waiting = round(told.get("num_requests_waiting", 0))
    capacity = round(told.get("capacity_tokens", assumed_capacity_tokens))
    used = told.get("kv_cache_usage_perc")
    physical = round(used * capacity) if used is not None else running * _TYPICAL_CONTEXT_TOKENS
    each = physical // running if running else _TYPICAL_CONTEXT_TOKENS
    others = (0,) * class_index
    return InstanceLoad(
        instance_id=instance_id,
        capacity_tokens=capacity,
        physical_tokens=min(physical, capacity),
        head_demand_tokens=each if waiting else 0,
        queued_demand_tokens=each * waiting,
        running=(*others, running),
        waiting=(*others, waiting),
    )


def _read_gauges(text: str) -> Mapping[str, float]:
    """Read vLLM's gauges, summed over its engines (a page may hold several, by label).

    What is not a believable number counts as not reported.
    """
    found: dict[str, float] = {}
    usages: list[float] = []
    for sample in samples(text, _GAUGES):
        name = sample.name[len(PREFIXES[0]) :]
        if name == _CACHE:
            found["capacity_tokens"] = found.get("capacity_tokens", 0) + _capacity(sample.labels)
        elif not believable(sample.value):
            continue
        elif name in _USAGES:
            usages.append(min(sample.value, 1.0))
        else:
            found[name] = found.get(name, 0) + sample.value
    if usages:
        found["kv_cache_usage_perc"] = sum(usages) / len(usages)
    return {name: value for name, value in found.items() if name != "capacity_tokens" or value > 0}


def _capacity(labels: Mapping[str, str]) -> float:
    try:
        tokens = float(labels["block_size"]) * float(labels["num_gpu_blocks"])
    except (KeyError, ValueError):
        return 0
    return tokens if believable(tokens) else 0
