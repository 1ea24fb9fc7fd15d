"""One trial of the demo: a fresh fleet, one policy, one workload, everything measured."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llumnix.errors import LaunchError, Unreachable
from llumnix.instances.instance import InstanceState
from llumnix.loadgen import Endpoint, LoadOptions, OutputChecker, run_load
from llumnix.loadgen.openloop import Progress
from llumnix.loadgen.probe import ServerState, between, probe
from llumnix.loadgen.records import RequestRecord
from llumnix.processes.frontend_process import launched_frontend
from llumnix.results.result import RunResult, judge, summarise
from llumnix.results.validity import Validity
from llumnix.testbed.watcher import RunSeries, RunWatcher
from simulator.workload.request import TraceRequest

_MIGRATING = "freeness"
"""The policy that migrates unless told otherwise; the others are the baselines."""
_UP_TIMEOUT_S = 60.0
_POLL_S = 0.2
_PROBES = 3


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A dispatch policy with or without migration: `NAME`, `NAME+migration`, `NAME-migration`."""

    dispatch: str
    migration: bool

    @classmethod
    def parse(cls, text: str) -> "PolicyChoice":
        """Read it as a user writes it."""
        for suffix, migration in (("+migration", True), ("-migration", False)):
            if text.endswith(suffix):
                return cls(text.removesuffix(suffix), migration)
        return cls(text, text == _MIGRATING)


class Launchable(Protocol):
    """A fleet that `llumnix serve` can be told to serve; `speed` is 1 unless it is emulated."""

    @property
    def speed(self) -> float:
        """Fleet seconds in a wall second."""

    @property
    def log_dir(self) -> Path | None:
        """Where its logs go; None: to a temporary folder."""

    def serve_arguments(self, policy: PolicyChoice) -> list[str]:
        """Arguments of `llumnix serve` for it under a policy."""


@dataclass(frozen=True, slots=True)
class FleetShape:
    """The emulated fleet a trial starts."""

    instances: int
    speed: float
    preset: str
    settings: tuple[str, ...] = ()
    log_dir: Path | None = None

    def serve_arguments(self, policy: PolicyChoice) -> list[str]:
        """Arguments of `llumnix serve` for such a fleet under a policy."""
        migration = "--migration" if policy.migration else "--no-migration"
        arguments = ["--port=0", f"--emulate={self.instances}", f"--speed={self.speed:g}"]
        arguments += [f"--policy={policy.dispatch}", migration]
        for setting in (f"emulator.preset={self.preset}", *self.settings):
            arguments += ["--set", setting]
        return arguments


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """What a trial brought: its result, every request's record, and what was watched meanwhile.

    `load_s` is the wall time from the first request to the last answer.
    """

    result: RunResult
    validity: Validity
    records: tuple[RequestRecord, ...]
    downtimes_ms: tuple[float, ...]
    watch: RunSeries
    load_s: float

    @property
    def right(self) -> bool:
        """Whether every output was compared and is right, however late it came."""
        result = self.result
        faults = (result.tokens_lost, result.tokens_doubled, result.tokens_wrong)
        excused = not self.validity.causes or self.validity.only_late
        return excused and not (result.failed or result.texts_wrong or any(faults))


async def when_up(endpoint: Endpoint) -> ServerState:
    """Ask the frontend once all its instances take requests; raises LaunchError if they do not."""
    for _ in range(int(_UP_TIMEOUT_S / _POLL_S)):
        state = await probe(endpoint)
        instances = state.fleet.instances if state.fleet else ()
        down = [each.instance_id for each in instances if each.state != InstanceState.UP]
        if state.model and not down:
            return state
        await asyncio.sleep(_POLL_S)
    raise LaunchError(f"{', '.join(down) or endpoint.url} took no requests in {_UP_TIMEOUT_S:g} s")


async def _when_told(endpoint: Endpoint, before: ServerState) -> ServerState:
    """Ask again until all engines that told something before do; one that is gone never does.

    On a busy machine an answer may not come in time, and then nobody knew how late the run was.
    Raises Unreachable when the frontend does not answer.
    """
    for tries_left in range(_PROBES - 1, -1, -1):
        try:
            state = await probe(endpoint)
        except Unreachable:
            if not tries_left:
                raise
            continue
        if before.engines.keys() <= state.engines.keys():
            break
    return state


async def run_trial(
    policy: PolicyChoice,
    shape: Launchable,
    requests: Sequence[TraceRequest],
    checker: OutputChecker,
    seed: int,
    progress: Progress | None = None,
) -> TrialOutcome:
    """Start a fleet, replay the workload, compare every output, stop the fleet.

    Raises LaunchError when the fleet does not start or stays down.
    """
    async with launched_frontend(shape.serve_arguments(policy), shape.log_dir) as url:
        endpoint = Endpoint.parse(url)
        before = await when_up(endpoint)
        options = LoadOptions(
            model=before.model, speed=shape.speed, prompts=checker.prompts, return_token_ids=True
        )
        watcher = RunWatcher(url, shape.speed)
        watcher.start()
        began_s = time.monotonic()
        try:
            records = await run_load(requests, endpoint, options, progress)
        finally:
            load_s = time.monotonic() - began_s
            await watcher.stop()
        after = await _when_told(endpoint, before)
    fleet = between(before, after)
    check = checker.check(records)
    result = summarise(
        records,
        policy=policy.dispatch,
        seed=seed,
        speed=shape.speed,
        fleet=dataclasses.replace(fleet, migration=policy.migration),
        check=check,
    )
    return TrialOutcome(
        result,
        judge(records, fleet, check),
        tuple(records),
        fleet.downtimes_ms,
        watcher.seen,
        load_s,
    )
