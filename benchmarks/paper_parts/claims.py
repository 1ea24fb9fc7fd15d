"""The paper's figures, and whether a simulated one agrees with them in direction and in size.

A claim is a ratio: how many times as large a figure is with one policy as with another. Above 1 the
second policy is the better one. The figures are decoded from the vector drawings of the paper's
artifact, or stated in its files of claims; `remembered` ones rest on second-hand notes alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llumnix.planning.estimate import estimate

LIKE_FACTOR = 1.5
"""A ratio within this factor of the paper's counts as the same size."""
EVEN = 1.1
"""Ratios closer to 1 than this count as no difference: the paper's runs are single ones."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio with its 95 % interval, over seeds (paired, on a logarithmic scale)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, over: Sequence[float], under: Sequence[float]) -> "Ratio | None":
        """Divide pairs of positive figures and average the logarithms; None with any that is 0."""
        pairs = list(zip(over, under, strict=True))
        if not pairs or any(one <= 0 or other <= 0 for one, other in pairs):
            return None
        found = estimate([math.log(one / other) for one, other in pairs])
        half = math.inf if found.half_width is None else found.half_width
        high = math.exp(found.mean + half) if half < math.inf else math.inf
        return cls(math.exp(found.mean), math.exp(found.mean - half), high)

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low > 1 or self.high < 1


@dataclass(frozen=True, slots=True)
class Claim:
    """What the paper has of one figure: `over` (the other policy) against `under` (Llumnix)."""

    trace: str
    rate: float
    figure: str
    over: float
    under: float
    unit: str = "s"
    matched: tuple[str, float] | None = None

    @property
    def matched_by(self) -> tuple[str, float]:
        """A figure and its value under the other policy, by which an equal load is identified."""
        return self.matched or (self.figure, self.over)

    @property
    def ratio(self) -> float:
        """How many times as large the other policy's figure is."""
        return self.over / self.under


AGAINST_LOAD_AWARE = (
    Claim("M-M", 7.8, "ttft mean", 5.90, 0.76),
    Claim("M-M", 7.8, "ttft p99", 240.0, 18.1),
    Claim("L-L", 3.0, "ttft p99", 41.2, 2.78),
    Claim("S-L", 4.2, "tpot p99", 0.308, 0.150),
    Claim("L-S", 18.0, "ttft p99", 206.0, 74.0),
    Claim("S-S", 36.0, "ttft p99", 71.7, 74.6),
    Claim("L-S", 18.0, "tpot p99", 1.0, 1.0, "", matched=("ttft p99", 206.0)),
)
"""Single points of figure 11, decoded; of the last one only that there is no gain is known."""


@dataclass(frozen=True, slots=True)
class Best:
    """The paper's "up to": over all traces and rates, and what the authors' own rerun gave."""

    figure: str
    paper: float
    rerun: float | None = None
    against: str = "load-aware"
    remembered: bool = False


UP_TO = (
    Best("ttft mean", 7.7, 6.1),
    Best("ttft p99", 14.8, 15.63),
    Best("tpot mean", 1.16),
    Best("tpot p99", 2.0, 1.61),
    Best("e2e mean", 1.5, 1.65),
    Best("e2e p99", 1.6, 2.59),
    Best("ttft mean", 26.0, None, "round-robin", remembered=True),
    Best("ttft p99", 34.0, None, "round-robin", remembered=True),
)
LOSS_CUT = 0.704
"""Preemption loss less than with the load-aware policy, on average."""
FRAGMENTED = {"load-aware": 0.079, "Llumnix": 0.007}
"""Figure 12; remembered."""

DOWNTIMES_MS = {
    "live": (13, 12, 15, 16, 22, 26),
    "blocking copy": (68, 129, 226, 451, 909, 1682),
    "recompute": (58, 110, 220, 436, 940, 1995),
}
"""Figure 10, LLaMA-7B, by context length: 256 to 8,192 tokens."""


@dataclass(frozen=True, slots=True)
class PriorityClaim:
    """Figure 13: how many times as large a figure of urgent requests is without priorities."""

    figure: str
    least: float
    most: float
    base_at_cv8: float | None = None
    with_at_cv8: float | None = None


PRIORITIES = (
    PriorityClaim("e2e mean", 1.2, 1.5, 8.54, 5.68),
    PriorityClaim("ttft mean", 2.9, 8.6),
    PriorityClaim("ttft p99", 3.6, 10.0, 8.90, 0.90),
    PriorityClaim("tpot mean", 1.2, 1.5, 0.0698, 0.0456),
    PriorityClaim("tpot p99", 1.3, 2.2),
)
NORMAL_LOSS = {"e2e mean": 0.045, "ttft mean": 0.13, "tpot mean": 0.02}
"""How much worse normal requests fare at most."""


def direction(ours: Ratio | None, paper: float) -> str:
    """Return whether the same policy is the better one: `yes`, `no`, or `not certain`.

    Where the paper has no difference, ours must be as small.
    """
    if ours is None:
        return "not certain"
    even = max(paper, 1 / paper) < EVEN
    if even and max(ours.value, 1 / ours.value) < EVEN:
        return "yes"
    if not ours.certain:
        return "not certain"
    if even:
        return "no"
    return "yes" if (ours.value > 1) == (paper > 1) else "no"


def size(ours: Ratio | None, paper: float) -> str:
    """Return whether a ratio is as far from 1 as the paper's: `like`, `smaller` or `larger`.

    `like` is within a factor of 1.5, or an interval that holds the paper's ratio.
    """
    if ours is None:
        return "-"
    if max(ours.value / paper, paper / ours.value) <= LIKE_FACTOR:
        return "like"
    if ours.low <= paper <= ours.high < math.inf:
        return "like"
    return "smaller" if abs(math.log(ours.value)) < abs(math.log(paper)) else "larger"
