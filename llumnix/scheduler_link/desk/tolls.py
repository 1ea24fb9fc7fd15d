"""What the keys of all frontends have used of their limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llumnix.frontend.access.limits import Allowance, Exceeded
from llumnix.scheduler_link import tolls


@dataclass(slots=True)
class _Visit:
    allowance: Allowance
    reserved: int = 0


@dataclass(slots=True, eq=False)
class Visits:
    """The visits of one frontend."""

    open: dict[int, _Visit] = field(default_factory=dict)


class DeskTolls:
    """Counts visits against limits, which are those that frontends read from their keys file.

    `now` is a monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._allowances: dict[str, Allowance] = {}

    def enter(
        self, visits: Visits, number: int, key_hash: str, limits: Sequence[int | None]
    ) -> dict[str, Any]:
        """Count a visit in, unless a limit stands against it."""
        now_s, allowance = self._now(), self._allowance(key_hash, limits)
        exceeded = allowance.enter(now_s)
        if exceeded is None:
            visits.open[number] = _Visit(allowance)
        return tolls.answer_plain(exceeded, allowance, now_s)

    def adopt(
        self,
        visits: Visits,
        number: int,
        key_hash: str,
        limits: Sequence[int | None],
        prompt_tokens: int,
        output_tokens: int,
    ) -> None:
        """Count in a visit that has begun, whatever stands against it."""
        now_s, allowance = self._now(), self._allowance(key_hash, limits)
        if allowance.enter(now_s) is not None:
            allowance.open += 1
        visit = visits.open[number] = _Visit(allowance)
        reserved = allowance.reserve(prompt_tokens, output_tokens, now_s)
        visit.reserved = 0 if isinstance(reserved, Exceeded) else reserved

    def reserve(
        self, visits: Visits, number: int, prompt_tokens: int, output_tokens: int
    ) -> dict[str, Any] | None:
        """Set tokens aside for a visit, unless there are too few; None if it is not known."""
        visit, now_s = visits.open.get(number), self._now()
        if visit is None:
            return None
        reserved = visit.allowance.reserve(prompt_tokens, output_tokens, now_s)
        exceeded = reserved if isinstance(reserved, Exceeded) else None
        if not isinstance(reserved, Exceeded):
            visit.reserved = reserved
        return tolls.answer_plain(exceeded, visit.allowance, now_s)

    def end(self, visits: Visits, number: int, tokens: int) -> None:
        """Count a visit out, with the tokens that it has used."""
        visit = visits.open.pop(number, None)
        if visit is not None:
            visit.allowance.settle(visit.reserved, tokens, self._now())
            visit.allowance.leave()

    def gone(self, visits: Visits) -> None:
        """Count out all visits of a frontend that is gone; what was set aside counts as used."""
        for number, visit in list(visits.open.items()):
            self.end(visits, number, visit.reserved)

    def _allowance(self, key_hash: str, told: Sequence[int | None]) -> Allowance:
        limits, allowance = tolls.limits_of(told), self._allowances.get(key_hash)
        if allowance is None:
            allowance = self._allowances[key_hash] = Allowance(limits, self._now())
        elif allowance.limits != limits:
            allowance.changed(limits, self._now())
        return allowance
