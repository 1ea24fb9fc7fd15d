"""Request lengths: the paper's power-law lattice, quantile tables, and their correlation."""

import math

import numpy as np

from policies.types import FloatColumn, IntColumn

# The paper's lengths by their mean in tokens: the exponent of the power law (artifact, §6.1).
POWER_LAW = {"S": (128, 2.0), "M": (256, 1.5), "L": (512, 1.15)}
POWER_LAW_CAP_TOKENS = 6144
# The artifact scales a sample of 10,000 to the wanted mean; a shorter one is the head of such a
# sample, because a dozen draws of so heavy a tail say nothing about its mean.
POWER_LAW_SAMPLE = 10_000

# Where a quantile table is sampled: every per cent, and finer in the tail, which decides P99s.
PROBABILITIES = np.concatenate(
    [np.arange(0, 99) / 100, np.arange(990, 1000) / 1000, [0.9995, 1.0]]
).round(4)


def power_law_lengths(size: str, count: int, rng: np.random.Generator) -> IntColumn:
    """Draw lengths as the paper's artifact does; `size` is S, M or L (mean 128, 256, 512 tokens).

    Multiples k of one step, P(k) proportional to k^-alpha, the step chosen so that the sample
    has the wanted mean, then capped at 6,144 tokens.
    """
    mean, alpha = POWER_LAW[size]
    steps = np.arange(1, 2 * mean)
    weights = steps**-alpha
    drawn = rng.choice(steps, size=max(count, POWER_LAW_SAMPLE), p=weights / weights.sum())
    lengths: IntColumn = np.ceil(drawn * mean / drawn.mean()).astype(np.int64)
    return lengths[:count].clip(max=POWER_LAW_CAP_TOKENS)


def quantile_table(lengths: IntColumn) -> FloatColumn:
    """The lengths at PROBABILITIES, linearly interpolated between order statistics."""
    table: FloatColumn = np.quantile(lengths, PROBABILITIES)
    return table


def at_quantiles(table: FloatColumn, uniforms: FloatColumn) -> IntColumn:
    """Lengths of a quantile table at uniform draws: whole tokens, at least one."""
    lengths = np.interp(uniforms, PROBABILITIES, table)
    return np.maximum(1, np.rint(lengths)).astype(np.int64)


def rank_correlation(left: IntColumn, right: IntColumn) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one side never varies."""
    a, b = _ranks(left), _ranks(right)
    if a.std() == 0.0 or b.std() == 0.0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def correlated_uniforms(
    rank_correlation: float, count: int, rng: np.random.Generator
) -> tuple[FloatColumn, FloatColumn]:
    """Draw pairs of uniforms with a rank correlation (a Gaussian copula)."""
    pearson = 2.0 * math.sin(math.pi * rank_correlation / 6.0)
    left, noise = rng.standard_normal(count), rng.standard_normal(count)
    right = pearson * left + math.sqrt(max(0.0, 1.0 - pearson**2)) * noise
    return _normal_cdf(left), _normal_cdf(right)


def _normal_cdf(values: FloatColumn) -> FloatColumn:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in values.tolist()])


def _ranks(values: IntColumn) -> FloatColumn:
    _, which, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return ((last - sizes + 1 + last) / 2.0)[which]
