"""What a run's result must hold, whatever happened in the run."""

import json
from typing import Any

import numpy as np
import pytest

from llumnix.admin.schema import FleetStatus, Totals
from llumnix.loadgen import OutputCheck, RequestRecord, Status
from llumnix.loadgen.probe import FleetRun, ServerState, between
from llumnix.results.result import Quantiles, RunResult, Slo, Spread, summarise
from llumnix.results.table import results_table
from llumnix.results.validity import LATENESS, InvalidCause, Validity
from simulator.streams import stream
from simulator.workload.request import TraceRequest

ISSUE_KEYS = {
    "policy",
    "valid",
    "requests",
    "finished",
    "failed",
    "rejected",
    "tokens_lost",
    "tokens_doubled",
    "tokens_wrong",
    "migrations_committed",
    "migrations_aborted",
    "downtime_ms",
    "decode_step_ms",
    "ttft_s",
    "tpot_s",
    "preemptions",
}


def record(
    index: int,
    times_s: list[float],
    status: Status = Status.FINISHED,
    *,
    class_name: str = "normal",
    slip_s: float = 0.0,
    http_status: int = 200,
    error: str = "",
) -> RequestRecord:
    arrival_s = float(index)
    return RequestRecord(
        request=TraceRequest(index, arrival_s, 10, 10, class_name),
        request_id=f"r-{index}",
        status=status,
        sent_s=arrival_s + slip_s,
        token_times_s=np.array(times_s),
        token_ids=None,
        text="",
        tokens=len(times_s),
        http_status=http_status,
        error=error,
    )


def summed(records: list[RequestRecord], **more: Any) -> RunResult:
    return summarise(records, policy="freeness", seed=3, **more)


def some_run(seed: int) -> list[RequestRecord]:
    """A run with every kind of end."""
    rng = stream(seed, "run")
    records = []
    for index in range(60):
        status = list(Status)[int(rng.integers(4))]
        tokens = 0 if status in (Status.REJECTED, Status.FAILED) else int(rng.integers(1, 9))
        times_s = index + np.sort(rng.exponential(2.0, tokens))
        http_status = 429 if status is Status.REJECTED and index % 2 else 200
        records.append(record(index, times_s.tolist(), status, http_status=http_status))
    return records


@pytest.mark.parametrize("seed", range(5))
def test_the_books_balance(seed: int) -> None:
    """Every request ended in exactly one way; parts are no larger than their wholes."""
    result = summed(some_run(seed), slo=Slo(2.0, 0.5))
    assert result.requests == 60 == result.finished + result.failed + result.rejected
    assert result.cut <= result.failed
    assert result.shed <= result.rejected
    for spread in (result.ttft_s, result.tpot_s, result.e2e_s):
        assert spread.p50 is not None
        assert spread.p99 is not None
        assert spread.p50 <= spread.p99
    assert (result.ttft_s.p50 or 0) <= (result.e2e_s.p50 or 0)
    assert (result.ttft_s.mean or 0) <= (result.e2e_s.mean or 0)
    assert result.goodput is not None
    assert result.goodput.share <= result.finished / result.requests
    assert sum(part.requests for part in result.by_class.values()) == result.requests


def test_the_keys_of_the_issue_are_there_and_survive_json() -> None:
    data = json.loads(json.dumps(summed(some_run(1)).to_json()))
    assert data.keys() >= ISSUE_KEYS
    assert data["downtime_ms"].keys() >= {"p50", "p99"}
    assert data["decode_step_ms"].keys() >= {"p50"}
    for key in ("ttft_s", "tpot_s", "e2e_s"):
        assert data[key].keys() >= {"mean", "p50", "p99"}


def test_latencies_count_from_the_scheduled_arrival() -> None:
    """Arrival at 2 s, tokens at 3, 3.5 and 4 s: the generator's own slip does not help."""
    result = summed([record(2, [3.0, 3.5, 4.0], slip_s=0.4)])
    assert result.ttft_s == Spread(1.0, 1.0, 1.0)
    assert result.tpot_s == Spread(0.5, 0.5, 0.5)
    assert result.e2e_s == Spread(2.0, 2.0, 2.0)
    assert result.duration_s == 4.0


def test_a_single_token_has_no_time_per_further_token() -> None:
    result = summed([record(0, [1.0])])
    assert result.tpot_s == Spread()
    assert result.ttft_s.p50 == 1.0


def test_quantiles_interpolate_between_neighbours() -> None:
    assert Quantiles.of([1.0, 2.0, 3.0, 4.0]).p50 == 2.5
    assert Quantiles.of(list(range(101))) == Quantiles(50.0, 99.0)
    assert Quantiles.of([]) == Quantiles(None, None)


def test_goodput_counts_requests_that_meet_both_bounds() -> None:
    records = [
        record(0, [1.0, 1.1]),
        record(1, [4.0, 4.1]),  # first token too late
        record(2, [2.5, 4.5]),  # tokens too slow
        record(3, [3.5], Status.CUT),
        record(4, [4.5]),
        record(5, [], Status.REJECTED),
        record(6, [7.0, 8.0], slip_s=0.1),
        record(7, [7.5, 10.0]),
    ]
    good = summed(records, slo=Slo(ttft_s=1.0, tpot_s=1.0)).goodput
    assert good is not None
    assert good.share == 3 / 8
    assert good.rps == pytest.approx(3 / 10.0)
    only_ttft = summed(records, slo=Slo(ttft_s=1.0)).goodput
    assert only_ttft is not None
    assert (only_ttft.share, only_ttft.slo_tpot_s) == (5 / 8, None)
    assert summed(records).goodput is None


def test_classes_are_reported_apart() -> None:
    result = summed([record(0, [1.0], class_name="high"), record(1, [6.0])])
    assert result.by_class["high"].ttft_s.p50 == 1.0
    assert result.by_class["normal"].ttft_s.p50 == 5.0


def test_what_nobody_could_know_is_null() -> None:
    data = summed([record(0, [1.0])]).to_json()
    unknown = ["tokens_lost", "tokens_doubled", "tokens_wrong", "migrations_committed"]
    for key in [*unknown, "migrations_aborted", "preemptions", "goodput", "migration"]:
        assert data[key] is None, key
    assert data["downtime_ms"] == {"p50": None, "p99": None}
    assert data["decode_step_ms"] == {"p50": None}


@pytest.mark.parametrize(
    ("records", "more", "reason"),
    [
        ([record(0, [], Status.FAILED)], {}, "no request finished"),
        ([record(0, [1.0], slip_s=0.9)], {}, "late"),
        ([record(0, [1.0])], {"fleet": FleetRun(late_share=0.02)}, "fell behind"),
        ([record(0, [1.0])], {"check": OutputCheck(unchecked=1)}, "not compared"),
    ],
)
def test_a_run_that_measured_something_else_is_not_valid(
    records: list[RequestRecord], more: dict[str, Any], reason: str
) -> None:
    result = summed(records, **more)
    assert not result.valid
    assert not result.ok
    assert reason in result.invalid_reasons[0]


def test_a_good_run_is_valid_and_a_fault_in_an_output_is_not_ok() -> None:
    records = [record(0, [1.0], slip_s=0.1)]
    fleet = FleetRun(late_share=0.001)
    assert summed(records, fleet=fleet, check=OutputCheck(checked=1)).ok
    for fault in ("tokens_lost", "tokens_doubled", "tokens_wrong", "texts_wrong"):
        result = summed(records, check=OutputCheck(checked=1, **{fault: 1}))  # type: ignore[arg-type]
        assert result.valid
        assert not result.ok
    assert not summed([*records, record(1, [], Status.FAILED)]).ok
    assert summed([*records, record(1, [], Status.REJECTED)]).ok


def test_errors_are_grouped_the_most_frequent_first() -> None:
    records = [record(i, [], Status.FAILED, error="boom" if i else "odd") for i in range(3)]
    assert summed(records).errors == ("2 x boom", "1 x odd")


def state(committed: int, moves: list[float], steps: int, late: int, preempted: int) -> ServerState:
    totals = Totals(
        migrations_committed=committed,
        migrations_aborted=1,
        downtime_ms=tuple(moves),
        gap_ms=tuple(moves),
    )
    fleet = FleetStatus((), policy="freeness", migration=True, totals=totals)
    engine = {
        "lag": {"steps": steps, "late_steps": late},
        "preemptions": preempted,
        "decode_step_ms": {"p50": 40.0},
    }
    return ServerState("m", 10.0, True, fleet, {"a": engine, "b": engine})


def test_a_fleets_figures_are_those_of_the_run_alone() -> None:
    """Counters and lists that stood before the run are taken off."""
    run = between(state(3, [1.0, 2.0, 3.0], 100, 90, 5), state(5, [1.0, 2.0, 3.0, 4.0], 300, 92, 6))
    assert run.migrations_committed == 2
    assert run.migrations_aborted == 0
    assert run.downtimes_ms == run.gaps_ms == (4.0,)
    assert run.preemptions == 2
    assert run.late_share == pytest.approx(4 / 400)
    assert run.decode_step_p50_ms == 40.0
    assert (run.policy, run.migration) == ("freeness", True)


def test_how_late_steps_were_is_that_of_the_worst_engine_in_its_decode_steps() -> None:
    """Wall seconds and a decode step in emulated milliseconds, at ten times real time."""
    engines = {
        name: {"lag": {"p99_s": late_s}, "decode_step_ms": {"p50": 40.0, "mean": 50.0}}
        for name, late_s in (("a", 0.001), ("b", 0.0125))
    }
    run = between(ServerState("m", 10.0, True), ServerState("m", 10.0, True, None, engines))
    assert run.late_p99_steps == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("run", "causes"),
    [
        ({"finished": 1, "late_steps_share": 0.01, "slip_p99_s": 0.5}, ()),
        ({"finished": 1, "late_steps_share": 0.011}, (InvalidCause.EMULATION_LATE,)),
        ({"finished": 1, "slip_p99_s": 0.51}, (InvalidCause.GENERATOR_LATE,)),
        ({"finished": 0}, (InvalidCause.NOTHING_FINISHED,)),
        (
            {"finished": 1, "unchecked": 1, "late_steps_share": 0.5},
            (InvalidCause.EMULATION_LATE, InvalidCause.NOT_COMPARED),
        ),
    ],
)
def test_a_run_is_judged_by_its_figures_and_says_why(
    run: dict[str, Any], causes: tuple[InvalidCause, ...]
) -> None:
    """Only lateness is the machine's fault alone; each cause has its sentence."""
    validity = Validity(**run)
    assert validity.causes == causes
    assert len(validity.reasons) == len(causes)
    assert validity.only_late == (bool(causes) and set(causes) <= LATENESS)
    assert validity.to_json()["causes"] == list(causes)


def test_a_full_ring_of_downtimes_gives_the_newest() -> None:
    full, later = [float(i) for i in range(1000)], [float(i) for i in range(30, 1030)]
    run = between(state(1000, full, 1, 0, 0), state(1030, later, 2, 0, 0))
    assert run.downtimes_ms == tuple(float(i) for i in range(1000, 1030))


def test_a_server_that_is_not_ours_tells_nothing() -> None:
    assert between(ServerState("m"), ServerState("m")) == FleetRun()


def test_further_cells_of_a_run_come_below_its_verdict_and_may_be_unknown() -> None:
    results = [summed([record(0, [1.0])]), summed([record(0, [1.0])])]
    table = results_table(results, more=[{"late": "0.3 %", "other": "-"}, {"late": "-"}])
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[:2] == [("valid", "yes", "yes"), ("late", "0.3 %", "-")]
    assert "other" not in {name for name, *_ in rows}


def test_the_table_leaves_out_what_nobody_knows() -> None:
    unknown = results_table([summed([record(0, [1.0, 2.0])])])
    names = list(unknown.columns[0].cells)
    assert "TTFT p99, s" in names
    assert "migrations committed" not in names
    fleet = FleetRun(migrations_committed=3, migrations_aborted=0)
    known = results_table([summed([record(0, [1.0])], fleet=fleet), summed([record(0, [1.0])])])
    rows = dict(zip(known.columns[0].cells, known.columns[1].cells, strict=True))
    assert rows["migrations committed"] == "3"
    assert len(known.columns) == 3
