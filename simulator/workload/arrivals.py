"""When requests arrive: renewal processes, plain or modulated by a rate over time."""

from dataclasses import dataclass

import numpy as np

from policies.types import FloatColumn, IntColumn

# Below this a gap's spread is noise: all gaps are drawn equal.
REGULAR_CV = 1e-3


def unit_gaps(cv: float, count: int, rng: np.random.Generator) -> FloatColumn:
    """Draw gaps of mean 1 and coefficient of variation `cv` (Gamma; 1 is Poisson arrivals)."""
    if cv < REGULAR_CV:
        return np.ones(count)
    return rng.gamma(1.0 / cv**2, cv**2, count)


def renewal_arrivals(
    rate_rps: float, cv: float, count: int, rng: np.random.Generator
) -> FloatColumn:
    """Arrival times in seconds of `count` requests at a mean rate, gaps varying by `cv`."""
    if rate_rps <= 0.0 or cv < 0.0:
        raise ValueError(f"need a rate above 0 and a cv of 0 or more, not {rate_rps} and {cv}")
    return np.cumsum(unit_gaps(cv, count, rng)) / rate_rps


def gap_cv(times_s: FloatColumn) -> float:
    """Coefficient of variation of the gaps between sorted times; 0 for fewer than three."""
    gaps = np.diff(times_s)
    return float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.mean() > 0 else 0.0


def counts_per(window_s: float, times_s: FloatColumn, span_s: float) -> IntColumn:
    """Count the arrivals in each window of `[0, span_s]`; the last window may be shorter."""
    windows = max(1, int(np.ceil(span_s / window_s)))
    slots = np.minimum((times_s // window_s).astype(np.int64), windows - 1)
    return np.bincount(slots, minlength=windows).astype(np.int64)


@dataclass(frozen=True, slots=True)
class RateCurve:
    """A rate over time: how many requests arrived in each slot of `slot_s` within `span_s`.

    It maps time to *operational time*, in which one request is due per unit; the burstiness left
    there is that of a plain renewal process. That keeps bursts and silences longer than a slot
    where they were, and redraws everything finer.
    """

    slot_s: float
    span_s: float
    counts: IntColumn

    @property
    def total(self) -> int:
        """Requests in one pass over the curve."""
        return int(self.counts.sum())

    def operational(self, times_s: FloatColumn) -> FloatColumn:
        """Operational time of given times in `[0, span_s]`."""
        return np.interp(times_s, self._edges_s(), self._due())

    def moments_s(self, operational: FloatColumn) -> FloatColumn:
        """The times of given operational times; past the end the curve repeats."""
        due, edges_s = self._due(), self._edges_s()
        cycle, within = np.divmod(operational, self.total)
        # "right" steps over empty slots: no operational time passes in them.
        slot = np.searchsorted(due, within, side="right") - 1
        into_slot = (within - due[slot]) / self.counts[slot]
        moments: FloatColumn = cycle * self.span_s + edges_s[slot]
        moments += into_slot * np.diff(edges_s)[slot]
        return moments

    def _edges_s(self) -> FloatColumn:
        starts = np.arange(len(self.counts) + 1, dtype=np.float64)
        return np.minimum(starts * self.slot_s, self.span_s)

    def _due(self) -> FloatColumn:
        return np.concatenate([[0.0], np.cumsum(self.counts)]).astype(np.float64)
