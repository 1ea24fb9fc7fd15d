"""The paper's claims compared with the simulation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paper_parts.claims import (
    AGAINST_LOAD_AWARE,
    PRIORITIES,
    UP_TO,
    Best,
    Claim,
    PriorityClaim,
    Ratio,
    direction,
    size,
)
from paper_parts.plan import BASE, LLUMNIX, LOAD_AWARE, PRIORITY_CVS, PRIORITY_RATES, TRACES, trace
from paper_parts.results import Results


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, our ratio for it, and the paper's."""

    name: str
    ours: Ratio | None
    paper: float

    @property
    def direction(self) -> str:
        """See `claims.direction`."""
        return direction(self.ours, self.paper)

    @property
    def size(self) -> str:
        """See `claims.size`; empty for a ratio that does not point the paper's way."""
        return size(self.ours, self.paper) if self.direction == "yes" else "-"


Place = tuple[str, float]
"""A trace and a rate."""


def mean(results: Results, place: Place, policy: str, figure: str, part: str = "serving") -> float:
    """Average a figure over the seeds."""
    return float(np.mean(results.values(place, policy, figure, part)))


def middle(
    results: Results, place: Place, policy: str, figure: str, part: str = "serving"
) -> float:
    """Average a figure geometrically over the seeds, as ratios are; 0 where any is 0."""
    values = np.array(results.values(place, policy, figure, part))
    return float(np.exp(np.log(values).mean())) if (values > 0).all() else 0.0


def ratio(
    results: Results,
    place: Place,
    figure: str,
    over: str,
    under: str = LLUMNIX,
    part: str = "serving",
) -> Ratio | None:
    """Divide one policy's figure by another's, seed by seed."""
    return Ratio.of(
        results.values(place, over, figure, part), results.values(place, under, figure, part)
    )


def matched_rate(results: Results, claim: Claim) -> float:
    """Find the rate at which the load-aware policy performs about as in the paper.

    Our engine is not the paper's, so an equal rate is not an equal load. Only the policy compared
    with is considered: Llumnix's result at that load stays open.
    """
    figure, value = claim.matched_by

    def off(rate: float) -> float:
        ours = middle(results, (claim.trace, rate), LOAD_AWARE, figure)
        return abs(math.log(ours / value)) if ours > 0 else math.inf

    return min(trace(claim.trace).rates, key=off)


def at_rate(
    results: Results, claim: Claim, rate: float, under: str = LLUMNIX, part: str = "serving"
) -> Verdict:
    """Judge a claim at a rate."""
    ours = ratio(results, (claim.trace, rate), claim.figure, LOAD_AWARE, under, part)
    return Verdict(f"{claim.figure}, {claim.trace} at {rate:g}/s", ours, claim.ratio)


def largest(results: Results, one: Best) -> tuple[str, Verdict]:
    """Find where a figure improves most; certain improvements come before uncertain ones."""
    found = [
        (ours, f"{each.name}, {rate:g}/s")
        for each in TRACES
        if results.has(each.name)
        for rate in each.rates
        if (ours := ratio(results, (each.name, rate), one.figure, one.against)) is not None
    ]
    name = f"largest {one.figure} against {one.against}"
    if not found:
        return "nowhere", Verdict(name, None, one.paper)
    ours, where = max(found, key=lambda pair: (pair[0].low > 1, pair[0].value))
    return where, Verdict(name, ours, one.paper)


def urgent(results: Results, claim: PriorityClaim, place: tuple[float, float]) -> Verdict:
    """Judge how much faster urgent requests are with priorities, at a rate and a CV.

    The paper's ratio is the end of its range that is nearer, or ours where it is in the range.
    """
    ours = Ratio.of(
        results.urgency(place, BASE, f"high {claim.figure}"),
        results.urgency(place, LLUMNIX, f"high {claim.figure}"),
    )
    paper = claim.least if ours is None else min(max(ours.value, claim.least), claim.most)
    name = f"urgent {claim.figure} at {place[0]:g}/s, CV {place[1]:g}"
    return Verdict(name, ours, paper)


def all_verdicts(results: Results) -> list[Verdict]:
    """Judge every claim once: single points at matched load, priorities too."""
    return [
        *(
            at_rate(results, claim, matched_rate(results, claim))
            for claim in AGAINST_LOAD_AWARE
            if results.has(claim.trace)
        ),
        *(largest(results, one)[1] for one in UP_TO),
        *(
            urgent(results, claim, (PRIORITY_RATES[-1], cv))
            for claim in PRIORITIES
            for cv in PRIORITY_CVS
            if results.has_cv(cv)
        ),
    ]


def tally(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Count claims by direction and, of those whose direction agrees, by size."""
    agreed = [one for one in verdicts if one.direction == "yes"]
    return {
        "claims": len(verdicts),
        **{name: sum(one.direction == name for one in verdicts) for name in _DIRECTIONS},
        **{name: sum(one.size == name for one in agreed) for name in _SIZES},
    }


_DIRECTIONS = ("yes", "no", "not certain")
_SIZES = ("like", "smaller", "larger")
