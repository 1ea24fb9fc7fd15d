"""Generating a workload from a profile: similar to its trace, never the trace itself."""

import numpy as np

from policies.types import FloatColumn
from simulator.streams import stream
from simulator.workload.arrivals import unit_gaps
from simulator.workload.lengths import at_quantiles, correlated_uniforms
from simulator.workload.profile import Profile
from simulator.workload.request import TraceRequest, WorkloadError
from simulator.workload.transforms import at_rate


def generate(
    profile: Profile,
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    seed: int = 0,
    rate: float | None = None,
) -> list[TraceRequest]:
    """Generate a number of requests, or a duration's; one pass over the profile if neither.

    Seed 0 begins where the trace began; another seed begins anywhere in it, so that short workloads
    also differ in their time of day. `rate` stretches time to a mean rate in requests per second,
    burstiness unchanged. Past its end the profile repeats. Equal arguments give equal requests.
    Raises WorkloadError for invalid arguments.
    """
    if requests is not None and duration_s is not None:
        raise WorkloadError("give a number of requests or a duration, not both")
    if requests is not None and requests < 1:
        raise WorkloadError(f"cannot generate {requests} requests: ask for 1 or more")
    if duration_s is not None and duration_s <= 0:
        raise WorkloadError(f"cannot generate {duration_s} s of requests: ask for more than 0 s")
    if seed < 0:
        raise WorkloadError(f"a seed must be 0 or more, not {seed}")
    if rate is not None and rate <= 0:
        raise WorkloadError(f"a rate must be above 0 requests per second, not {rate}")
    if duration_s is None:
        times_s = _arrivals(profile, requests or profile.curve.total, seed)
        workload = _with_lengths(profile, times_s, seed)
        return workload if rate is None else at_rate(workload, rate)
    squeeze = 1.0 if rate is None else rate / profile.mean_rate_rps
    return _with_lengths(
        profile, _arrivals_within(profile, duration_s * squeeze, seed), seed, squeeze
    )


def _arrivals(profile: Profile, count: int, seed: int) -> FloatColumn:
    """Draw arrival times, the first of them at 0."""
    curve = profile.curve
    start = 0
    if seed and count < curve.total:
        start = int(stream(seed, "profile/start").integers(curve.total - count + 1))
    due = np.cumsum(unit_gaps(profile.residual_cv, count, stream(seed, "profile/arrivals")))
    times_s: FloatColumn = curve.moments_s(start + due - due[0])
    times_s -= times_s[0]
    return times_s


def _arrivals_within(profile: Profile, duration_s: float, seed: int) -> FloatColumn:
    count = int(profile.mean_rate_rps * duration_s) + 1
    while True:
        times_s = _arrivals(profile, count, seed)
        if times_s[-1] >= duration_s:
            return times_s[times_s < duration_s]
        count *= 2


def _with_lengths(
    profile: Profile, times_s: FloatColumn, seed: int, squeeze: float = 1.0
) -> list[TraceRequest]:
    by_prompt, by_output = correlated_uniforms(
        profile.rank_correlation, len(times_s), stream(seed, "profile/lengths")
    )
    rows = zip(
        (times_s / squeeze).round(6).tolist(),
        at_quantiles(profile.prompt_tokens, by_prompt).tolist(),
        at_quantiles(profile.output_tokens, by_output).tolist(),
        strict=True,
    )
    return [TraceRequest(index, *row) for index, row in enumerate(rows)]
