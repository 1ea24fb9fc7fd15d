"""The contestants of the simulators' race, and how each is run and timed."""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.costs.model import Preset
from speed_parts.dynamo import Router, replay
from speed_parts.ours import Kernel, Said, Spec
from speed_parts.preset import TIGHT_TOKENS, TOKEN_BUDGET
from speed_parts.process import Ran, RunFailedError, run_pinned
from speed_parts.vidur import simulate
from speed_parts.workload import Workload

MAX_NUM_SEQS = 128
TIGHT = ", tight"
DOOR = ", door in Python"
TINY = 16
"""Requests of the run that stands for a tool's start-up."""
_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: the cost of the process, and what it reports.

    `own_s` is its own time to simulate; `read_s`, if reported, the time to read its input.
    """

    ran: Ran
    own_s: float
    finished: int
    decode_tokens: int
    preemptions: int | None = None
    migrations: int | None = None
    read_s: float | None = None


@dataclass(frozen=True, slots=True)
class Contestant:
    """A tool with a policy. It runs at most `runs` times, and on at most `most` requests."""

    name: str
    run: Callable[[Workload, int], Outcome]
    most: int
    runs: int = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A contestant's figures in one race: the least of the runs. Times are CPU time.

    `cpu_s` is the time to read the input and simulate: by a tool's own clock where it reports both,
    else the whole process's less `startup_s`, which is too coarse where tenths of a second matter.
    """

    contestant: str
    requests: int
    instances: int
    runs: int
    cpu_s: float
    startup_s: float
    own_s: float
    requests_per_s: float
    decode_tokens_per_s: float
    own_requests_per_s: float
    own_decode_tokens_per_s: float
    peak_mib: float
    finished: int
    preemptions: int | None
    migrations: int | None


@dataclass(frozen=True, slots=True)
class Track:
    """Shared by all contestants: the engine, a folder for their files, an instance's memory."""

    preset: Preset
    preset_path: Path
    folder: Path
    capacity_tokens: int

    def ours(
        self,
        kernel: Kernel,
        dispatch: str,
        migration: bool,
        most: int,
        *,
        tight: bool = False,
        ask_door: bool = False,
    ) -> Contestant:
        """Run our simulator, by kernel and policy.

        `tight` is with less memory than the preset's, `ask_door` with the front door in Python.
        """

        def run(workload: Workload, instances: int) -> Outcome:
            spec = self.spec(workload, instances, kernel, dispatch, migration)
            if tight:
                spec = dataclasses.replace(spec, capacity_tokens=TIGHT_TOKENS)
            return run_ours(dataclasses.replace(spec, ask_door=ask_door))

        policy = f"{dispatch}{' + migration' if migration else ''}{TIGHT if tight else ''}"
        policy += DOOR if ask_door else ""
        return Contestant(f"llumnix {kernel}, {policy}", run, most)

    def spec(
        self, workload: Workload, instances: int, kernel: Kernel, dispatch: str, migration: bool
    ) -> Spec:
        """Describe a run of ours; write its requests to a file, once."""
        path = self.folder / f"requests-{len(workload)}.npz"
        if not path.is_file():
            workload.save(path)
        return Spec(
            kernel=kernel,
            requests=str(path),
            preset=str(self.preset_path),
            instances=instances,
            dispatch=dispatch,
            migration=migration,
            max_num_seqs=MAX_NUM_SEQS,
            token_budget=TOKEN_BUDGET,
            capacity_tokens=self.capacity_tokens,
        )

    def dynamo(self, python: Path, router: Router, most: int) -> Contestant:
        """Run Dynamo's offline replay, by router."""

        def run(workload: Workload, instances: int) -> Outcome:
            limits = MAX_NUM_SEQS, TOKEN_BUDGET
            block = self.preset.block_tokens
            did = replay(python, workload, block, instances, router, limits, self.folder)
            return Outcome(did.ran, did.own_wall_s, did.finished, did.decode_tokens)

        return Contestant(f"dynamo replay, {router}", run, most)

    def vidur(self, python: Path, most: int) -> Contestant:
        """Run Vidur, with Sarathi's scheduler."""

        def run(workload: Workload, instances: int) -> Outcome:
            limits = MAX_NUM_SEQS, TOKEN_BUDGET
            did = simulate(python, workload, self.preset, instances, limits, self.folder)
            return Outcome(did.ran, did.own_s, did.finished, workload.decode_tokens, did.restarts)

        return Contestant("vidur, round-robin", run, most, runs=1)


def run_ours(spec: Spec, environment: dict[str, str] | None = None) -> Outcome:
    """Run our simulator in a separate process; raises RunFailedError."""
    command = [sys.executable, "-m", "speed_parts.ours", json.dumps(dataclasses.asdict(spec))]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), **(environment or {})}
    ran = run_pinned(command, timeout_s=_TIMEOUT_S, environment=environment)
    said = Said(**json.loads(ran.output.splitlines()[-1]))
    return Outcome(
        ran,
        said.simulation_s,
        said.finished,
        said.decode_tokens,
        said.preemptions,
        said.migrations,
        said.read_s,
    )


def race(
    workload: Workload,
    instances: int,
    contestants: Sequence[Contestant],
    repeats: int,
    notes: dict[str, str],
) -> list[Row]:
    """Run all contestants in turn, repeatedly; return the rows of those that did not fail.

    Failures go to the notes.
    """
    running = [one for one in contestants if one.most >= len(workload)]
    tiny = workload.head(TINY)
    startups: dict[str, list[Outcome]] = {one.name: [] for one in running}
    outcomes: dict[str, list[Outcome]] = {one.name: [] for one in running}
    for turn in range(repeats):
        for one in running:
            if turn >= one.runs or one.name in notes:
                continue
            try:
                startups[one.name].append(one.run(tiny, instances))
                outcomes[one.name].append(one.run(workload, instances))
            except RunFailedError as error:
                notes[one.name] = str(error)
                continue
            took_s = outcomes[one.name][-1].ran.cpu_s
            print(f"{len(workload):>9,} {one.name}: {took_s:.2f} s", file=sys.stderr, flush=True)
    return [
        row_of(one.name, workload, instances, startups[one.name], outcomes[one.name])
        for one in running
        if one.name not in notes
    ]


def row_of(
    name: str,
    workload: Workload,
    instances: int,
    startups: Sequence[Outcome],
    outcomes: Sequence[Outcome],
) -> Row:
    """Summarise the runs of one contestant."""
    startup_s = min(one.ran.cpu_s for one in startups)
    whole_s = min(one.ran.cpu_s for one in outcomes) - startup_s
    told_s = [one.read_s + one.own_s for one in outcomes if one.read_s is not None]
    cpu_s = min(told_s, default=max(whole_s, 1e-9))
    own_s = min(one.own_s for one in outcomes)
    last = outcomes[-1]
    return Row(
        contestant=name,
        requests=len(workload),
        instances=instances,
        runs=len(outcomes),
        cpu_s=cpu_s,
        startup_s=startup_s,
        own_s=own_s,
        requests_per_s=len(workload) / cpu_s,
        decode_tokens_per_s=last.decode_tokens / cpu_s,
        own_requests_per_s=len(workload) / own_s,
        own_decode_tokens_per_s=last.decode_tokens / own_s,
        peak_mib=max(one.ran.peak_bytes for one in outcomes) / 2**20,
        finished=last.finished,
        preemptions=last.preemptions,
        migrations=last.migrations,
    )
