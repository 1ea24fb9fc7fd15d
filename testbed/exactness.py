"""Comparing answers that were moved with the same answers left where they were."""

import asyncio
import random
import secrets
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.cases import STOP_LETTERS, Case
from testbed.moves import AdminSide, Cut, Ride
from testbed.recorder import Recording, differences

_ATTEMPTS = 4
"""How often a request is asked until a move happens before its end."""


@dataclass(frozen=True, slots=True)
class MoveJob:
    """One request to move: `cuts` are shares of its answer, one for each move in turn."""

    case: Case
    prompt: str
    stream: bool
    cuts: tuple[float, ...] = (0.3,)
    shared_prefix: bool = False

    @property
    def key(self) -> tuple[str, bool, str, bool]:
        """What the answer depends on."""
        return self.case.name, self.case.chat, self.prompt, self.stream

    @property
    def name(self) -> str:
        """For the report's readers."""
        where = "chat" if self.case.chat else "completions"
        how = "streamed" if self.stream else "whole"
        return f"{self.case.name}/{where}/{how}"


@dataclass(slots=True)
class Verdict:
    """The result of a run of jobs.

    `moves` migrations that brought KV; `moved` and `stayed` requests, by name; `unlike` those whose
    answer differed, with how; `control_unlike` the same for answers asked twice and never moved.
    """

    moves: int = 0
    moved: Counter[str] = field(default_factory=Counter)
    stayed: Counter[str] = field(default_factory=Counter)
    chained: Counter[int] = field(default_factory=Counter)
    unlike: list[str] = field(default_factory=list)
    controls: int = 0
    control_unlike: list[str] = field(default_factory=list)
    stops_straddled: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """Figures for a report."""
        return {
            "requests": sum(self.moved.values()) + sum(self.stayed.values()),
            "requests_moved": sum(self.moved.values()),
            "migrations": self.moves,
            "moves_a_request": dict(sorted(self.chained.items())),
            "unlike": len(self.unlike),
            "unlike_examples": self.unlike[:20],
            "controls": self.controls,
            "controls_unlike": len(self.control_unlike),
            "control_examples": self.control_unlike[:20],
            "stop_strings_straddling_a_cut": self.stops_straddled,
            "never_moved": sorted(self.stayed.keys() - self.moved.keys()),
            "failed_migrations": dict(self.failures.most_common()),
            "moved_by_case": dict(sorted(self.moved.items())),
        }

    def add(self, other: "Verdict") -> None:
        """Count another run's with this one's."""
        self.moves += other.moves
        self.controls += other.controls
        self.stops_straddled += other.stops_straddled
        self.unlike += other.unlike
        self.control_unlike += other.control_unlike
        for mine, theirs in (
            (self.moved, other.moved),
            (self.stayed, other.stayed),
            (self.failures, other.failures),
        ):
            mine.update(theirs)
        self.chained.update(other.chained)


def prompt_text(seed: int, letters: int) -> str:
    """Draw a prompt of words, one token a letter."""
    draws = random.Random(seed)
    return "".join(draws.choices(string.ascii_lowercase + "      .,", k=letters))


class Comparison:
    """Runs jobs over a fleet, `concurrency` at a time, each against an unmoved run's answer."""

    def __init__(self, fleet: AdminSide, concurrency: int = 4) -> None:
        self.verdict = Verdict()
        self._fleet = fleet
        self._limit = asyncio.Semaphore(concurrency)
        self._references: dict[tuple[str, bool, str, bool], Ride] = {}

    async def run(self, jobs: Sequence[MoveJob]) -> Verdict:
        """Take the references first, each twice (the control), then move."""
        fresh = {job.key: job for job in jobs if job.key not in self._references}
        plain = [job for job in fresh.values() if job.case.stop_of is None]
        stopping = [job for job in fresh.values() if job.case.stop_of is not None]
        for group in (plain, stopping):
            await asyncio.gather(*(self._limited(self._refer(job)) for job in group))
        await asyncio.gather(*(self._limited(self._move(job)) for job in jobs))
        return self.verdict

    async def _limited(self, work: Any) -> None:
        async with self._limit:
            await work

    async def _body(self, job: MoveJob) -> dict[str, Any]:
        salt = "" if job.shared_prefix else secrets.token_hex(4)
        body = job.case.whole_body(job.prompt, stream=job.stream, salt=salt)
        if job.case.stop_of is not None:
            body["stop"] = job.case.stop_of(await self._unstopped(job))
        return body

    async def _unstopped(self, job: MoveJob) -> str:
        """Return the model's answer to this prompt when nothing stops it."""
        free = MoveJob(
            Case("unstopped", job.case.chat, {"temperature": 0.0}), job.prompt, stream=False
        )
        if free.key not in self._references:
            body = free.case.whole_body(free.prompt, stream=False)
            self._references[free.key] = await self._fleet.ride(free.case.path, body)
        return self._references[free.key].recording.text

    async def _refer(self, job: MoveJob) -> None:
        rides = [await self._fleet.ride(job.case.path, await self._body(job)) for _ in range(2)]
        first, second = (ride.recording for ride in rides)
        self._references[job.key] = rides[0]
        self.verdict.controls += 1
        found = differences(first, second) + ([f"error: {first.error}"] if first.error else [])
        if found:
            self.verdict.control_unlike.append(f"{job.name}: {'; '.join(found)}")

    async def _move(self, job: MoveJob) -> None:
        reference = self._references[job.key]
        for attempt in range(_ATTEMPTS):
            ride = await self._fleet.ride(
                job.case.path, await self._body(job), self._cuts(job, reference, attempt)
            )
            self._judge(job, reference.recording, ride)
            if ride.moves:
                return

    def _cuts(self, job: MoveJob, reference: Ride, attempt: int) -> list[Cut]:
        """Return when to order moves; earlier at each attempt: the last may have been late."""
        shares = [share / (1 + attempt) for share in job.cuts]
        if not job.stream:
            return [Cut(after_s=share * reference.seconds) for share in shares]
        length = _tokens(reference.recording, "completion_tokens")
        if job.case.stop_of is not None:
            window = length - STOP_LETTERS + 1 - job.case.held_letters
            return [Cut(letters=max(1, window - attempt * STOP_LETTERS // 2))]
        return [Cut(letters=max(1, int(share * length))) for share in shares]

    def _judge(self, job: MoveJob, expected: Recording, ride: Ride) -> None:
        verdict = self.verdict
        (verdict.moved if ride.moves else verdict.stayed)[job.name] += 1
        verdict.moves += len(ride.moves)
        verdict.chained[len(ride.moves)] += 1
        verdict.failures.update(ride.failures)
        found = differences(expected, ride.recording)
        if found:
            verdict.unlike.append(
                f"{job.name} ({ride.request_id}, {len(ride.moves)} moves of {job.cuts}): "
                f"{'; '.join(found)}"
            )
        if job.case.stop_of is not None and ride.moves and ride.recording.seen:
            seen = ride.recording
            length = _tokens(seen, "completion_tokens")
            # What had arrived, or was copied, when the request left: it left later than that.
            left_after = max(
                ride.moves[-1]["copied_tokens"] - _tokens(seen, "prompt_tokens"),
                ride.moves[-1]["ordered_letters"] + job.case.held_letters,
            )
            straddled = length - STOP_LETTERS < left_after < length
            verdict.stops_straddled += straddled and seen.seen["finish_reason"] == "stop"


def _tokens(recording: Recording, key: str) -> int:
    return int((recording.seen.get("usage") or {}).get(key) or 0)
