"""The data of a report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Series = Mapping[str, Sequence[tuple[float, float]]]
"""By instance: (fleet seconds since the start, value) pairs, in order."""

Move = tuple[float, float, str, str, str]
"""A migration: started, ended (fleet seconds since the start), source, destination, request."""

Size = tuple[float, int, int]
"""Since when (fleet seconds since the start), machines held, and those that have started."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run: its result as JSON (of `RunResult`) and the series measured during it.

    Durations are fleet seconds, except `downtime_ms`. Freeness is in decode steps, KV in tokens.
    Anything may be empty: what is unknown is not drawn.
    """

    result: Mapping[str, Any]
    ttft_s: Sequence[float] = ()
    tpot_s: Sequence[float] = ()
    downtime_ms: Sequence[float] = ()
    freeness: Series = field(default_factory=dict)
    kv_used: Series = field(default_factory=dict)
    migrations: Sequence[Move] = ()
    sizes: Sequence[Size] = ()

    @property
    def valid(self) -> bool:
        """Whether the run may be shown as a result at all."""
        return bool(self.result.get("valid"))

    def figure(self, name: str, part: str = "") -> float | None:
        """Return a number of the result; None if it is unknown."""
        value = self.result.get(name)
        if part:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class NamedRun:
    """A run with its name and the number of its colour."""

    name: str
    colour: int
    run: RunReport


def named(runs: Sequence[RunReport]) -> list[NamedRun]:
    """Name runs after their policy, numbering those of equal name."""
    names = [_policy(run) for run in runs]
    times = Counter(names)
    seen: Counter[str] = Counter()
    result = []
    for colour, (name, run) in enumerate(zip(names, runs, strict=True)):
        seen[name] += 1
        shown = f"{name} ({seen[name]})" if times[name] > 1 else name
        result.append(NamedRun(shown, colour, run))
    return result


def _policy(run: RunReport) -> str:
    policy = str(run.result.get("policy") or "run")
    moving = run.result.get("migration")
    return f"{policy} + migration" if moving and "migration" not in policy else policy
