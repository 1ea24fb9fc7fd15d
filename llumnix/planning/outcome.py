"""The outcome of a simulation, in the terms of a measured run."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from llumnix.loadgen.probe import FleetRun
from llumnix.loadgen.records import Status
from llumnix.results.result import RunResult, Slo, summarise
from migration.llumlet.fleet_messages import EventKind
from simulator.events import NS_PER_S
from simulator.fleet.life import Fate, Life, Rejection
from simulator.fleet.machines import held_ns
from simulator.fleets import ServingFleet, machines_of
from simulator.workload.request import TraceRequest

_MS = 1e6


@dataclass(frozen=True, slots=True)
class SimulatedRecord:
    """A simulated request as a record of any run (`llumnix.results.result.Record`)."""

    life: Life

    @property
    def request(self) -> TraceRequest:
        """The request."""
        return self.life.request

    @property
    def status(self) -> Status:
        """How the request ended."""
        return Status.FINISHED if self.life.finished else Status.REJECTED

    @property
    def tokens(self) -> int:
        """Output tokens produced."""
        return self.life.tokens

    @property
    def ttft_s(self) -> float | None:
        """Time from arrival to the first token."""
        return self._since_arrival_s(self.life.first_token_ns)

    @property
    def e2e_s(self) -> float | None:
        """Time from arrival to the last token."""
        return self._since_arrival_s(self.life.last_token_ns)

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first."""
        life = self.life
        if life.tokens < 2:
            return None
        return (life.last_token_ns - life.first_token_ns) / (life.tokens - 1) / NS_PER_S

    @property
    def slip_s(self) -> float:
        """0: virtual time is never late."""
        return 0.0

    @property
    def ended_s(self) -> float:
        """The time of the last token, or of the arrival if there was none."""
        return max(self.life.last_token_ns, self.life.arrived_ns) / NS_PER_S

    @property
    def shed(self) -> bool:
        """Whether it was rejected for load, not for its own length."""
        return self.life.fate is Fate.REJECTED and self.life.rejection is not Rejection.NEVER_FITS

    @property
    def error(self) -> str:
        """Why the request was rejected."""
        return self.life.reason

    def _since_arrival_s(self, at_ns: int) -> float | None:
        return (at_ns - self.life.arrived_ns) / NS_PER_S if self.life.tokens else None


def result_of(
    fleet: ServingFleet, lives: Sequence[Life], *, policy: str, seed: int, slo: Slo | None = None
) -> RunResult:
    """Summarise a finished simulation as a run like any other."""
    moves = [move for life in lives for move in life.moves if move.gap_ns]
    ended = [event.kind for _, event in fleet.moves.log if event.kind != "started"]
    steps_ms = [
        each.busy_ns / each.steps / _MS for each in fleet.instances().values() if each.steps
    ]
    cached = sum(life.cached_tokens for life in lives)
    records = [SimulatedRecord(life) for life in lives]
    end_ns = max((max(life.last_token_ns, life.arrived_ns) for life in lives), default=0)
    run = FleetRun(
        policy=policy,
        migration=fleet.scheduler.config.migration,
        migrations_committed=ended.count(EventKind.COMMITTED),
        migrations_aborted=ended.count(EventKind.ABORTED),
        resumed=sum(life.restarts for life in lives),
        downtimes_ms=tuple(move.downtime_ns / _MS for move in moves),
        gaps_ms=tuple(move.gap_ns / _MS for move in moves),
        preemptions=sum(life.preemptions for life in lives),
        decode_step_p50_ms=median(steps_ms) if steps_ms else None,
        cached_prompt_tokens=cached if fleet.config.prefix_caching else None,
        instance_seconds=held_ns(machines_of(fleet), end_ns) / NS_PER_S,
    )
    return summarise(records, policy=policy, seed=seed, fleet=run, slo=slo)
