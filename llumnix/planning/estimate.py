"""Means with 95 % confidence intervals (Student's t)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond, the next lower row holds
# (which is on the safe side), and the normal quantile far out.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and half the width of its interval; None if there is only one value."""

    mean: float
    half_width: float | None

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.mean:+.3g}"
        if not self.mean and not self.half_width:
            return "0"
        return f"{self.mean:+.3g} ± {self.half_width:.2g}{'' if self.certain else ' n.s.'}"


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate the mean of independent values; raises ValueError if there are none."""
    if not values:
        raise ValueError("the mean needs at least one value")
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None)
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Estimate(mean, error * _T95[min(len(values) - 1, len(_T95)) - 1])
