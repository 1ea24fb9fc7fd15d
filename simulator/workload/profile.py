"""Workload profiles: a small JSON summary of a trace, from which a similar one is generated.

A profile keeps what affects a scheduler: the rate over time in slots as narrow as the trace's
bursts need, the burstiness left inside a slot, the quantiles of both lengths and their rank
correlation. It holds no request of the trace.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.types import FloatColumn
from simulator.workload.arrivals import RateCurve, counts_per, gap_cv
from simulator.workload.lengths import PROBABILITIES, quantile_table, rank_correlation
from simulator.workload.request import TraceRequest, WorkloadError

SCHEMA = "llumnix-workload-profile/1"

# A minute suffices for a smooth trace. Where the gaps inside a slot still vary more than this, the
# slots are made narrower: one number cannot describe an on/off process (Azure code, CV 13).
SLOTS_S = (60.0, 30.0, 10.0, 5.0, 2.0)
SMOOTH_CV = 1.5
# Keeps a profile below 40 kB; longer traces get wider slots.
MAX_SLOTS = 2500
WIDE_SLOTS_S = (300.0, 600.0, 1800.0, 3600.0, 21600.0, 86400.0)

DISPERSION_WINDOWS_S = (1.0, 10.0, 60.0)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a profile comes from, and the attribution its licence requires."""

    name: str
    source: str = ""
    licence: str = ""
    attribution: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """A trace summarised. `residual_cv` is the CV of gaps in operational time (see RateCurve).

    `interarrival_cv` and `dispersion` (variance over mean of the counts in windows of 1, 10 and
    60 s) describe the trace as a whole; generation does not use them, tests compare with them.
    """

    origin: Origin
    curve: RateCurve
    residual_cv: float
    interarrival_cv: float
    dispersion: Mapping[str, float]
    prompt_tokens: FloatColumn
    output_tokens: FloatColumn
    prompt_mean_tokens: float
    output_mean_tokens: float
    rank_correlation: float

    @property
    def mean_rate_rps(self) -> float:
        """Requests per second over the whole trace."""
        return self.curve.total / self.curve.span_s


def measure(requests: Sequence[TraceRequest], origin: Origin) -> Profile:
    """Summarise a trace; raises WorkloadError for one too short to have a rate."""
    times_s = np.array([request.arrival_s for request in requests])
    if len(requests) < 3 or times_s[-1] <= 0.0:
        raise WorkloadError("a profile needs at least three requests that do not arrive at once")
    prompts = np.array([request.prompt_tokens for request in requests])
    outputs = np.array([request.output_tokens for request in requests])
    curve, residual_cv = _fit_curve(times_s)
    return Profile(
        origin=origin,
        curve=curve,
        residual_cv=round(residual_cv, 4),
        interarrival_cv=round(gap_cv(times_s), 4),
        dispersion={
            f"{window_s:g}s": round(dispersion(window_s, times_s), 3)
            for window_s in DISPERSION_WINDOWS_S
        },
        prompt_tokens=quantile_table(prompts).round(1),
        output_tokens=quantile_table(outputs).round(1),
        prompt_mean_tokens=round(float(prompts.mean()), 2),
        output_mean_tokens=round(float(outputs.mean()), 2),
        rank_correlation=round(rank_correlation(prompts, outputs), 4),
    )


def dispersion(window_s: float, times_s: FloatColumn) -> float:
    """Variance over mean of the counts in windows of a width: 1 for Poisson arrivals."""
    counts = counts_per(window_s, times_s, float(times_s[-1]))
    return float(counts.var() / counts.mean())


def _fit_curve(times_s: FloatColumn) -> tuple[RateCurve, float]:
    span_s = float(times_s[-1])
    widths = [width for width in SLOTS_S if span_s / width <= MAX_SLOTS]
    if not widths:
        widths = [next((w for w in WIDE_SLOTS_S if span_s / w <= MAX_SLOTS), span_s / MAX_SLOTS)]
    for slot_s in widths:
        curve = RateCurve(slot_s, span_s, counts_per(slot_s, times_s, span_s))
        residual_cv = gap_cv(curve.operational(times_s))
        if residual_cv <= SMOOTH_CV:
            break
    return curve, residual_cv


def to_json(profile: Profile) -> str:
    """Write a profile: JSON, one key per line."""
    curve = profile.curve
    data: dict[str, object] = {
        "schema": SCHEMA,
        **dataclasses.asdict(profile.origin),
        "requests": curve.total,
        "span_s": curve.span_s,
        "mean_rate_rps": round(profile.mean_rate_rps, 4),
        "interarrival_cv": profile.interarrival_cv,
        "dispersion": dict(profile.dispersion),
        "slot_s": curve.slot_s,
        "counts": curve.counts.tolist(),
        "residual_cv": profile.residual_cv,
        "rank_correlation": profile.rank_correlation,
        "prompt_mean_tokens": profile.prompt_mean_tokens,
        "output_mean_tokens": profile.output_mean_tokens,
        "probabilities": PROBABILITIES.tolist(),
        "prompt_tokens": profile.prompt_tokens.tolist(),
        "output_tokens": profile.output_tokens.tolist(),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str, where: str) -> Profile:
    """Read a profile; raises WorkloadError (naming `where`) when it is not one of this schema."""
    try:
        data: dict[str, Any] = json.loads(text)
        if data["schema"] != SCHEMA:
            raise WorkloadError(f"{where} is a {data['schema']!r}; this version reads {SCHEMA}")
        if data["probabilities"] != PROBABILITIES.tolist():
            raise WorkloadError(
                f"{where}: its quantiles are not at the probabilities that {SCHEMA} expects"
            )
        profile = Profile(
            origin=Origin(data["name"], data["source"], data["licence"], data["attribution"]),
            curve=RateCurve(
                float(data["slot_s"]), float(data["span_s"]), np.array(data["counts"], np.int64)
            ),
            residual_cv=float(data["residual_cv"]),
            interarrival_cv=float(data["interarrival_cv"]),
            dispersion={key: float(value) for key, value in data["dispersion"].items()},
            prompt_tokens=np.array(data["prompt_tokens"], np.float64),
            output_tokens=np.array(data["output_tokens"], np.float64),
            prompt_mean_tokens=float(data["prompt_mean_tokens"]),
            output_mean_tokens=float(data["output_mean_tokens"]),
            rank_correlation=float(data["rank_correlation"]),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        story = f"{type(error).__name__}: {error}"
        raise WorkloadError(f"{where} is not a workload profile ({story})") from error
    _validate(profile, where)
    return profile


def read_profile(path: Path) -> Profile:
    """Read a profile file; raises WorkloadError when it cannot be read or is not a profile."""
    try:
        return from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"cannot read {path}: {error}") from error


def _validate(profile: Profile, where: str) -> None:
    curve = profile.curve
    tables = (profile.prompt_tokens, profile.output_tokens)
    sound = {
        "slot_s and span_s must be above 0": curve.slot_s > 0 and curve.span_s > 0,
        "counts must have one number, 0 or more, for each slot of the span": (
            curve.counts.ndim == 1
            and len(curve.counts) == max(1, int(np.ceil(curve.span_s / curve.slot_s)))
            and bool((curve.counts >= 0).all())
            and curve.total > 0
        ),
        "residual_cv must be 0 or more": 0.0 <= profile.residual_cv < float("inf"),
        "rank_correlation must be between -1 and 1": -1.0 <= profile.rank_correlation <= 1.0,
        "lengths must rise with their probabilities": all(
            table.shape == PROBABILITIES.shape and bool((np.diff(table) >= 0).all())
            for table in tables
        ),
    }
    for law, holds in sound.items():
        if not holds:
            raise WorkloadError(f"{where}: {law}")
