"""The choice of an instance for one request: by the policy, within the rules, ties broken.

A small fleet is looked at row by row, a large one by columns; the choice is the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from policies import columns, small_fleets
from policies.columns import HOLD as HOLD
from policies.dispatch import dispatch_policies
from policies.explained import Scores
from policies.ledger import InFlightLedger
from policies.registry import PolicySpec
from policies.types import DispatchRequest, FleetSnapshot, FloatColumn, InstanceId, IntColumn
from policies.usage import over_classes, startable_tokens
from policies.vetoes import candidates
from policies.view import DispatchView, Proposal

_NOBODY = "no instance accepts requests"


@dataclass(frozen=True, slots=True)
class Choice:
    """The row a request goes to, or HOLD, and why; `late_bound`: held until there is room."""

    row: int
    scores: Mapping[InstanceId, float]
    vetoed: Mapping[InstanceId, str]
    note: str = ""
    late_bound: bool = False


class Chooser:
    """Chooses by one policy. Raises PolicyError for an unknown policy or parameter."""

    def __init__(self, spec: PolicySpec, headroom_tokens: IntColumn, seed: int) -> None:
        self.name = spec.name
        self.policy = dispatch_policies.build(spec)
        self.small_policy = _small_policy(spec)
        self._seed = seed
        self._headroom_tokens = headroom_tokens
        self._any_headroom = headroom_tokens if headroom_tokens.any() else None
        self._rests: tuple[FleetSnapshot, small_fleets.Still] | None = None

    def choose(
        self,
        request: DispatchRequest,
        snapshot: FleetSnapshot,
        ledger: InFlightLedger,
        max_age_s: float,
        turn: int,
    ) -> Choice:
        """Choose a row of a raw snapshot, to which the ledger adds what is on its way."""
        if self.small_policy is None or len(snapshot.ids) > small_fleets.MOST_ROWS:
            return self._by_columns(request, ledger.fill_in(snapshot), max_age_s, turn)
        rests = self._still(snapshot)
        rows = small_fleets.read(request, rests, ledger.rows(snapshot), turn, self._seed)
        vetoed = small_fleets.exclude(rows, rests, snapshot, max_age_s)
        if not rows.candidates:
            return Choice(HOLD, {}, vetoed, _NOBODY)
        answer = self.small_policy(rows)
        scores = dict(zip(snapshot.ids, answer[0], strict=True))
        row = small_fleets.choose(rows, answer)
        if row == HOLD:
            most = max(rows.startable[each] for each in rows.candidates)
            return Choice(row, scores, vetoed, _no_room(request, most), late_bound=True)
        return Choice(row, scores, vetoed)

    def _still(self, snapshot: FleetSnapshot) -> small_fleets.Still:
        """Return what stays of a snapshot in plain numbers: for columns that cannot change, once.

        Snapshots share them until an instance reports.
        """
        if self._rests is not None and small_fleets.is_still(self._rests[0], snapshot):
            return self._rests[1]
        rests = small_fleets.still(snapshot, self._any_headroom)
        self._rests = (snapshot, rests)
        return rests

    def _by_columns(
        self, request: DispatchRequest, fleet: FleetSnapshot, max_age_s: float, turn: int
    ) -> Choice:
        rows, vetoed = candidates(request, fleet, max_age_s)
        if len(rows) == 0:
            return Choice(HOLD, {}, vetoed, _NOBODY)
        view = DispatchView(request, fleet, rows, self._headroom_tokens, turn, self._seed)
        proposal = self.policy(view)
        scores = _scores_of(proposal, fleet, self.name)
        named = Scores(fleet.ids, scores)
        row = _choose(proposal, scores, view)
        if row == HOLD:
            most = int(startable_tokens(fleet)[rows].max())
            return Choice(row, named, vetoed, _no_room(request, most), late_bound=True)
        return Choice(row, named, vetoed)


def _small_policy(
    spec: PolicySpec,
) -> Callable[[small_fleets.Rows], small_fleets.Answer] | None:
    known = spec.name in small_fleets.small_policies.names()
    return small_fleets.small_policies.build(spec) if known else None


def _no_room(request: DispatchRequest, most: int) -> str:
    return f"no instance has room for {request.prompt_tokens} tokens; the most is {most}"


def _scores_of(proposal: Proposal, fleet: FleetSnapshot, name: str) -> FloatColumn:
    scores = np.asarray(proposal.scores, dtype=np.float64)
    if scores.shape != (len(fleet.ids),) or np.isnan(scores).any():
        raise ValueError(f"dispatch policy {name!r} must give one number per instance: {scores}")
    return scores


def _choose(proposal: Proposal, scores: FloatColumn, view: DispatchView) -> int:
    """Choose a row among the candidates, or HOLD; without `ready`, all are ready."""
    fleet = view.snapshot
    n = len(fleet.ids)
    everywhere = np.ones(n, dtype=np.bool_)
    allowed = everywhere
    if len(view.candidates) < n:
        allowed = np.zeros(n, dtype=np.bool_)
        allowed[view.candidates] = True
    ready = everywhere if proposal.ready is None else np.asarray(proposal.ready, dtype=np.bool_)
    waiting = over_classes(fleet.class_waiting) + fleet.in_flight_requests
    return columns.choose(
        scores,
        allowed,
        ready,
        over_classes(fleet.class_running) + waiting == 0,
        fleet.capacity_tokens >= view.request.prompt_tokens,
        waiting,
        view.turn,
    )
