"""One trial of the demo: a fresh emulated fleet, one policy, one workload, everything measured."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llumnix.frontend_process import launched_frontend
from llumnix.loadgen import Endpoint, LoadOptions, OutputChecker, run_load
from llumnix.loadgen.openloop import Progress
from llumnix.loadgen.probe import between, probe
from llumnix.loadgen.records import RequestRecord
from llumnix.results import RunResult, summarise
from llumnix.watcher import Watch, Watcher
from simulator.workload.request import TraceRequest

_MIGRATING = "freeness"
"""The policy that migrates unless told otherwise; the others are the baselines."""


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
    """What a trial brought: its result, every request's record, and what was watched meanwhile."""

    result: RunResult
    records: tuple[RequestRecord, ...]
    downtimes_ms: tuple[float, ...]
    watch: Watch


async def run_trial(
    policy: PolicyChoice,
    shape: FleetShape,
    requests: Sequence[TraceRequest],
    checker: OutputChecker,
    seed: int,
    progress: Progress | None = None,
) -> TrialOutcome:
    """Start a fleet, replay the workload, compare every output, stop the fleet.

    Raises LaunchError when the fleet does not start.
    """
    async with launched_frontend(shape.serve_arguments(policy), shape.log_dir) as url:
        endpoint = Endpoint.parse(url)
        before = await probe(endpoint)
        options = LoadOptions(
            model=before.model, speed=shape.speed, prompts=checker.prompts, return_token_ids=True
        )
        watcher = Watcher(url, shape.speed)
        watcher.start()
        try:
            records = await run_load(requests, endpoint, options, progress)
        finally:
            await watcher.stop()
        after = await probe(endpoint)
    fleet = between(before, after)
    result = summarise(
        records,
        policy=policy.dispatch,
        seed=seed,
        speed=shape.speed,
        fleet=dataclasses.replace(fleet, migration=policy.migration),
        check=checker.check(records),
    )
    return TrialOutcome(result, tuple(records), fleet.downtimes_ms, watcher.seen)
