"""Profiles: what is regenerated is like what was summed up."""

import json
from pathlib import Path

import numpy as np
import pytest

from policies.types import FloatColumn
from simulator.streams import stream
from simulator.workload.arrivals import RateCurve, gap_cv, renewal_arrivals
from simulator.workload.lengths import correlated_uniforms, rank_correlation
from simulator.workload.profile import (
    Origin,
    Profile,
    dispersion,
    from_json,
    measure,
    read_profile,
    to_json,
)
from simulator.workload.profiled import generate
from simulator.workload.request import TraceRequest, WorkloadError
from simulator.workload.transforms import mean_rate_rps

SHIPPED = Path(__file__).parents[3] / "traces"


def shipped(name: str) -> Profile:
    return read_profile(SHIPPED / f"{name}.json")


def times_s(requests: list[TraceRequest]) -> FloatColumn:
    return np.array([request.arrival_s for request in requests])


def synthetic(count: int = 3000) -> list[TraceRequest]:
    """A trace with a known shape: bursts, long tails, and a correlation of lengths."""
    arrivals = renewal_arrivals(5.0, 3.0, count, stream(9, "arrivals"))
    left, right = correlated_uniforms(0.6, count, stream(9, "lengths"))
    prompts = np.ceil(20 / (1.0001 - left) ** 0.8).astype(int)
    outputs = np.ceil(-100 * np.log(1.0 - right * 0.9999)).astype(int)
    rows = zip(arrivals.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
    return [TraceRequest(index, *row) for index, row in enumerate(rows)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["azure-conv-2023", "azure-code-2023"])
def test_a_regenerated_trace_is_like_the_one_summed_up(name: str, seed: int) -> None:
    """Rate, burstiness at every scale, lengths and their correlation come back, any seed."""
    profile = shipped(name)
    workload = generate(profile, seed=seed)
    arrivals = times_s(workload)
    assert len(workload) == profile.curve.total
    assert mean_rate_rps(workload) == pytest.approx(profile.mean_rate_rps, rel=0.05)
    assert gap_cv(arrivals) == pytest.approx(profile.interarrival_cv, rel=0.1)
    for window, expected in profile.dispersion.items():
        found = dispersion(float(window.removesuffix("s")), arrivals)
        assert found == pytest.approx(expected, rel=0.35), window
    prompts = np.array([request.prompt_tokens for request in workload])
    outputs = np.array([request.output_tokens for request in workload])
    assert prompts.mean() == pytest.approx(profile.prompt_mean_tokens, rel=0.03)
    assert outputs.mean() == pytest.approx(profile.output_mean_tokens, rel=0.05)
    for lengths, table in ((prompts, profile.prompt_tokens), (outputs, profile.output_tokens)):
        assert np.quantile(lengths, 0.5) == pytest.approx(table[50], rel=0.04)
        assert np.quantile(lengths, 0.99) == pytest.approx(table[99], rel=0.12)
    found = rank_correlation(prompts, outputs)
    assert found == pytest.approx(profile.rank_correlation, abs=0.03)


def test_the_shipped_profiles_know_their_traces() -> None:
    """The figures of reference/traces.md, and the licence's attribution."""
    conv, code = shipped("azure-conv-2023"), shipped("azure-code-2023")
    assert (conv.curve.total, code.curve.total) == (19_366, 8_819)
    assert conv.interarrival_cv == pytest.approx(1.094, abs=0.001)
    assert code.interarrival_cv == pytest.approx(13.15, abs=0.01)
    assert conv.prompt_mean_tokens == pytest.approx(1154.7)
    assert code.output_mean_tokens == pytest.approx(27.88)
    for name in ("azure-conv-2023", "azure-code-2023"):
        origin = shipped(name).origin
        assert (origin.name, origin.licence) == (name, "CC-BY-4.0")
        assert "Patel" in origin.attribution
        assert (SHIPPED / f"{name}.json").stat().st_size < 40_000


def test_measuring_what_was_generated_gives_the_profile_back() -> None:
    """A profile is a fixed point: summing up its own offspring finds the same figures."""
    profile = measure(synthetic(), Origin("synthetic"))
    again = measure(generate(profile, seed=1), Origin("again"))
    assert again.mean_rate_rps == pytest.approx(profile.mean_rate_rps, rel=0.1)
    assert again.rank_correlation == pytest.approx(profile.rank_correlation, abs=0.05)
    assert again.rank_correlation > 0.5
    assert again.prompt_tokens[50] == pytest.approx(profile.prompt_tokens[50], rel=0.1)
    assert again.interarrival_cv == pytest.approx(profile.interarrival_cv, rel=0.15)


def test_slots_are_as_narrow_as_the_bursts_need() -> None:
    assert shipped("azure-conv-2023").curve.slot_s == 60.0
    assert shipped("azure-code-2023").curve.slot_s == 2.0


def test_a_trace_of_days_still_makes_a_small_profile() -> None:
    arrivals = renewal_arrivals(0.01, 1.0, 20_000, stream(0, "days"))
    trace = [TraceRequest(i, at, 10, 10) for i, at in enumerate(arrivals.tolist())]
    assert trace[-1].arrival_s > 20 * 86_400
    profile = measure(trace, Origin("days"))
    assert len(to_json(profile)) < 40_000
    assert profile.curve.total == len(trace)


def test_silences_stay_silent() -> None:
    """No request is generated where the trace had none."""
    curve = RateCurve(10.0, 40.0, np.array([5, 0, 0, 5]))
    moments = curve.moments_s(np.linspace(0.0, 9.999, 200))
    assert ((moments < 10.0) | (moments >= 30.0)).all()
    assert (np.diff(moments) >= 0).all()


def test_operational_time_and_back_is_the_same_moment() -> None:
    curve = RateCurve(10.0, 35.0, np.array([5, 2, 9, 4]))
    moments = np.linspace(0.0, 34.9, 100)
    assert curve.moments_s(curve.operational(moments)) == pytest.approx(moments)


def test_equal_arguments_give_equal_bytes_and_another_seed_another_trace() -> None:
    profile = shipped("azure-code-2023")
    assert repr(generate(profile, requests=300, seed=5)) == repr(
        generate(profile, requests=300, seed=5)
    )
    assert generate(profile, requests=300, seed=5) != generate(profile, requests=300, seed=6)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_rate_is_met_exactly_and_leaves_burstiness_alone(seed: int) -> None:
    profile = shipped("azure-code-2023")
    natural = generate(profile, requests=1000, seed=seed)
    scaled = generate(profile, requests=1000, seed=seed, rate=20.0)
    assert mean_rate_rps(scaled) == pytest.approx(20.0, rel=1e-4)
    assert gap_cv(times_s(scaled)) == pytest.approx(gap_cv(times_s(natural)), rel=1e-3)
    assert [r.prompt_tokens for r in scaled] == [r.prompt_tokens for r in natural]


def test_a_duration_gives_as_many_requests_as_it_holds() -> None:
    profile = shipped("azure-conv-2023")
    workload = generate(profile, duration_s=600.0, seed=0)
    assert workload[-1].arrival_s < 600.0
    assert len(workload) == pytest.approx(sum(profile.curve.counts[:10]), rel=0.06)
    faster = generate(profile, duration_s=600.0, seed=0, rate=profile.mean_rate_rps * 2)
    assert faster[-1].arrival_s < 600.0
    assert len(faster) == pytest.approx(sum(profile.curve.counts[:20]), rel=0.06)


def test_more_requests_than_the_trace_had_begin_it_anew() -> None:
    profile = measure(synthetic(200), Origin("short"))
    workload = generate(profile, requests=1000, seed=1)
    assert len(workload) == 1000
    assert (np.diff(times_s(workload)) >= 0).all()
    assert mean_rate_rps(workload) == pytest.approx(profile.mean_rate_rps, rel=0.2)


def test_every_generated_workload_begins_at_zero_and_is_numbered() -> None:
    workload = generate(shipped("azure-code-2023"), requests=50, seed=8)
    assert workload[0].arrival_s == 0.0
    assert [request.index for request in workload] == list(range(50))


def test_a_profile_survives_being_written_and_read() -> None:
    text = to_json(measure(synthetic(), Origin("a", "b", "c", "d")))
    assert to_json(from_json(text, "there")) == text


@pytest.mark.parametrize(
    ("change", "story"),
    [
        ({"schema": "other/9"}, "other/9"),
        ({"counts": [1, 2]}, "counts must have one number, 0 or more"),
        ({"counts": "many"}, "not a workload profile"),
        ({"slot_s": -1.0}, "slot_s and span_s must be above 0"),
        ({"rank_correlation": 2.0}, "between -1 and 1"),
        ({"residual_cv": -0.5}, "residual_cv"),
        ({"prompt_tokens": [3, 2, 1]}, "lengths must rise"),
        ({"probabilities": [0, 1]}, "quantiles are not at the probabilities"),
        ({"name": None, "dispersion": 3}, "not a workload profile"),
    ],
)
def test_a_broken_profile_is_refused_by_name(change: dict[str, object], story: str) -> None:
    data = json.loads((SHIPPED / "azure-conv-2023.json").read_text()) | change
    with pytest.raises(WorkloadError, match=story) as caught:
        from_json(json.dumps(data), "mine.json")
    assert "mine.json" in str(caught.value)


def test_a_trace_too_short_for_a_rate_is_refused() -> None:
    trace = [TraceRequest(index, 0.0, 5, 5) for index in range(10)]
    with pytest.raises(WorkloadError, match="at once"):
        measure(trace, Origin("flat"))


@pytest.mark.parametrize(
    "arguments",
    [{"requests": 0}, {"duration_s": -1.0}, {"requests": 5, "duration_s": 5.0}, {"rate": 0.0}],
)
def test_arguments_that_make_no_workload_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(WorkloadError):
        generate(shipped("azure-conv-2023"), **arguments)  # type: ignore[arg-type]
