"""Windows, rates and classes of a workload; and the one door to all workloads."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.workload.formats.llumnix import dump
from simulator.workload.load import load
from simulator.workload.request import PromptBlocks, TraceRequest, WorkloadError
from simulator.workload.transforms import (
    at_rate,
    between_s,
    from_zero,
    mean_rate_rps,
    merged,
    numbered,
    take,
    with_high_class,
    with_lengths,
)

TRACE = [TraceRequest(i, i * i / 10, 100 + i, 10 + i) for i in range(200)]
PROFILE = Path(__file__).parents[3] / "traces" / "azure-conv-2023.json"

# Workloads as a reader gives them: the first request at 0, times to the microsecond.
REQUESTS = st.tuples(
    st.integers(0, 10**10),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.sampled_from(["normal", "high"]),
    st.sampled_from(["", "alice"]),
)
WORKLOADS = st.lists(REQUESTS, min_size=1, max_size=40).map(
    lambda rows: from_zero(
        [TraceRequest(i, row[0] / 1e6, *row[1:]) for i, row in enumerate(sorted(rows))]
    )
)


@pytest.fixture
def trace_path(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(dump(TRACE)))
    return path


def test_seed_zero_takes_the_start_of_a_trace() -> None:
    assert take(TRACE, 20, seed=0) == TRACE[:20]


def test_another_seed_takes_consecutive_requests_from_somewhere_else() -> None:
    starts = set()
    for seed in range(1, 9):
        window = take(TRACE, 20, seed)
        start = window[0].prompt_tokens - 100
        starts.add(start)
        assert [r.prompt_tokens for r in window] == [100 + start + i for i in range(20)]
        assert [r.index for r in window] == list(range(20))
        assert window[0].arrival_s == 0.0
        gap_s = TRACE[start + 19].arrival_s - TRACE[start].arrival_s
        assert window[-1].arrival_s == pytest.approx(gap_s)
    assert len(starts) > 4


@pytest.mark.parametrize("count", [0, 201])
def test_a_window_larger_than_the_trace_is_refused(count: int) -> None:
    with pytest.raises(WorkloadError, match="profile"):
        take(TRACE, count, seed=0)


def test_a_rate_stretches_all_gaps_by_one_factor() -> None:
    scaled = at_rate(TRACE, 0.5)
    assert mean_rate_rps(scaled) == pytest.approx(0.5, rel=1e-6)
    factor = mean_rate_rps(TRACE) / 0.5
    assert [r.arrival_s for r in scaled] == pytest.approx(
        [r.arrival_s * factor for r in TRACE], abs=1e-6
    )


def test_lengths_are_never_clipped() -> None:
    assert [r.prompt_tokens for r in at_rate(take(TRACE, 200, 0), 9.0)] == [
        r.prompt_tokens for r in TRACE
    ]


def test_a_rate_needs_gaps_to_change() -> None:
    with pytest.raises(WorkloadError, match="at once"):
        at_rate([TraceRequest(i, 0.0, 1, 1) for i in range(3)], 1.0)
    with pytest.raises(WorkloadError, match="above 0"):
        at_rate(TRACE, 0.0)


def test_the_share_of_the_high_class_is_what_was_asked_for() -> None:
    many = [TraceRequest(i, 0.0, 1, 1) for i in range(20_000)]
    high = sum(r.class_name == "high" for r in with_high_class(many, 0.1, seed=3))
    assert high == pytest.approx(2000, rel=0.1)
    assert with_high_class(many, 0.0, seed=3) == many
    assert all(r.class_name == "high" for r in with_high_class(many, 1.0, seed=3))


def test_who_is_high_does_not_change_anything_else() -> None:
    """Classes draw from a stream of their own: lengths and arrivals stay."""
    plain = load(PROFILE, requests=200, seed=4)
    mixed = load(PROFILE, requests=200, seed=4, high_share=0.5)
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in plain] == [
        (r.arrival_s, r.prompt_tokens, r.output_tokens) for r in mixed
    ]
    assert {r.class_name for r in mixed} == {"high", "normal"}


def test_a_share_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(WorkloadError, match="between 0 and 1"):
        with_high_class(TRACE, 1.5, seed=0)


def test_one_door_leads_to_traces_profiles_and_generators(trace_path: Path) -> None:
    assert load(trace_path) == TRACE
    assert load(str(trace_path), requests=7) == TRACE[:7]
    assert len(load(PROFILE, requests=40)) == 40
    assert len(load("power-law:S-S,cv=4", requests=30)) == 30


@pytest.mark.parametrize("source", ["trace", "profile", "power-law:M-M"])
def test_any_source_comes_at_the_rate_asked_for(source: str, trace_path: Path) -> None:
    where = {"trace": trace_path, "profile": PROFILE}.get(source, source)
    workload = load(where, requests=100, rate=3.0, seed=2)
    assert mean_rate_rps(workload) == pytest.approx(3.0, rel=1e-3)


def test_no_requests_are_refused(trace_path: Path) -> None:
    with pytest.raises(WorkloadError, match="1 or more"):
        load(trace_path, requests=0)


@given(WORKLOADS)
def test_everything_of_a_workload_is_the_workload(workload: list[TraceRequest]) -> None:
    assert between_s(workload) == workload
    assert numbered(workload) == workload
    assert from_zero(workload) == workload


@given(WORKLOADS)
def test_scaling_by_one_changes_nothing(workload: list[TraceRequest]) -> None:
    assert with_lengths(workload, 1.0, 1.0) == workload
    if rate := mean_rate_rps(workload):
        assert at_rate(workload, rate) == workload


@given(WORKLOADS, st.data())
def test_two_parts_hold_what_the_whole_holds(
    workload: list[TraceRequest], data: st.DataObject
) -> None:
    """Cut at any time or number: no request is in both, none is lost."""

    def lengths(requests: list[TraceRequest]) -> list[tuple[int, int, str]]:
        return [(r.prompt_tokens, r.output_tokens, r.tenant) for r in requests]

    cut = data.draw(st.integers(1, len(workload)))
    halves = numbered(workload, 0, cut) + (numbered(workload, cut) if cut < len(workload) else [])
    assert lengths(halves) == lengths(workload)
    cut_s = data.draw(st.sampled_from([r.arrival_s for r in workload]))
    late = between_s(workload, cut_s)
    early = between_s(workload, 0.0, cut_s) if cut_s > 0.0 else []
    assert lengths(early + late) == lengths(workload)
    assert late[0].arrival_s == 0.0


@given(st.lists(WORKLOADS, min_size=1, max_size=4))
def test_merging_loses_no_request_and_keeps_order(workloads: list[list[TraceRequest]]) -> None:
    workloads = [
        [dataclasses.replace(request, tenant=str(place)) for request in workload]
        for place, workload in enumerate(workloads)
    ]
    together = merged(workloads)
    for place, workload in enumerate(workloads):
        mine = [request for request in together if request.tenant == str(place)]
        assert from_zero(mine) == workload
    assert len(together) == sum(map(len, workloads))
    assert [r.index for r in together] == list(range(len(together)))
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(together))


def test_merged_requests_that_arrive_at_once_keep_the_order_of_their_workloads() -> None:
    first = [TraceRequest(i, 1.0 * (i // 2), 10 + i, 1) for i in range(4)]
    second = [TraceRequest(i, 1.0 * (i // 2), 20 + i, 1) for i in range(4)]
    assert [r.prompt_tokens for r in merged([first, second])] == [10, 11, 20, 21, 12, 13, 22, 23]
    assert merged([first]) == first


def test_what_prompts_begin_with_survives_all_that_leaves_them_as_they_are() -> None:
    """Parts, rates and classes keep it, lengths end it; other workloads have other blocks."""
    blocks = [PromptBlocks.of(16, [3, number]) for number in range(4)]
    requests = [TraceRequest(i, 1.0 * i, 32, 1, prompt_blocks=blocks[i]) for i in range(4)]
    changed = with_high_class(at_rate(numbered(requests, 1), 5.0), 1.0, 0)
    assert [request.prompt_blocks for request in changed] == blocks[1:]
    assert with_lengths(requests, 1.0, 2.0)[3].prompt_blocks == blocks[3]
    assert with_lengths(requests, 2.0)[3].prompt_blocks is None
    together = merged([requests, requests])
    assert [request.prompt_blocks for request in together[::2]] == blocks
    others = [one.prompt_blocks for one in together[1::2]]
    assert [one.ids for one in others if one] == [(7, 4), (7, 5), (7, 6), (7, 7)]


def test_lengths_are_scaled_to_whole_tokens_and_never_to_none() -> None:
    requests = [TraceRequest(0, 0.0, 1, 3), TraceRequest(1, 1.0, 100, 7)]
    assert with_lengths(requests, 0.25, 2.5) == [
        TraceRequest(0, 0.0, 1, 8),
        TraceRequest(1, 1.0, 25, 18),
    ]


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan, 1e8])
def test_lengths_stay_lengths(factor: float) -> None:
    with pytest.raises(WorkloadError, match=r"factor|times"):
        with_lengths(TRACE, factor, 1.0)


def test_a_part_without_requests_is_refused() -> None:
    with pytest.raises(WorkloadError, match="from 5000 s on and before inf s"):
        between_s(TRACE, 5000.0)
    for first, end in ((200, None), (5, 5), (0, 201)):
        with pytest.raises(WorkloadError, match="numbers 0 to 199"):
            numbered(TRACE, first, end)


def test_a_part_by_time_holds_its_start_and_not_its_end() -> None:
    part = between_s(TRACE, 0.4, 1.6)
    assert [r.prompt_tokens for r in part] == [102, 103]
    assert [r.arrival_s for r in part] == [0.0, 0.5]
