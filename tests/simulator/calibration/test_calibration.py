"""Calibration finds the costs of a server whose costs are known, and says what it cannot find."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.calibration.fit import fit, nonnegative
from simulator.calibration.measured import Measured, read_measured
from simulator.calibration.rerun import rerun
from simulator.calibration.validate import EngineSize, cross_validated, errors, largest_batch
from simulator.costs.model import LinearCosts
from simulator.workload.request import WorkloadError

FAST = LinearCosts(3_000_000, 40_000, 300, 11_000_000, 90, 20_000)
SLOW = LinearCosts(5_000_000, 205_000, 4_600, 34_000_000, 1_100, 280_000)
OVERHEAD = replace(FAST, overhead_ns=2_000_000)
ENGINE = EngineSize(max_num_seqs=64)


def served(
    costs: LinearCosts, rate_rps: float, budget: int = 2048, requests: int = 300
) -> Measured:
    """Requests of a simulated server: Poisson arrivals, lengths from a wide range."""
    random = np.random.default_rng(5)
    arrived = np.round(np.cumsum(random.exponential(1 / rate_rps, requests)), 6).astype(np.float64)
    zeros = np.zeros(requests)
    prompts = np.minimum(6000, random.lognormal(6.3, 0.9, requests).astype(np.int64) + 8)
    outputs = random.integers(1, 400, requests)
    asked = Measured(prompts, outputs, arrived, zeros, zeros, zeros)
    return rerun(asked, costs, ENGINE.limits(asked, budget))


def lines(measured: Measured, clocks_apart_s: float = 1e6) -> list[str]:
    """Write what was measured in the file's format, on two clocks."""
    return [
        json.dumps(
            {
                "request_id": str(index),
                "input_toks": int(measured.prompt_tokens[index]),
                "output_toks": int(measured.output_tokens[index]),
                "arrival_time": measured.arrived_s[index] + clocks_apart_s,
                "queued_ts": measured.arrived_s[index],
                "scheduled_ts": measured.scheduled_s[index],
                "first_token_ts": measured.first_s[index],
                "last_token_ts": measured.last_s[index],
            }
        )
        for index in range(len(measured))
    ]


@pytest.mark.parametrize(
    ("costs", "rate_rps", "budget"),
    [(FAST, 8.0, 2048), (FAST, 3.0, 1024), (SLOW, 0.8, 2048), (OVERHEAD, 8.0, 2048)],
)
def test_known_costs_are_found_again(costs: LinearCosts, rate_rps: float, budget: int) -> None:
    """Each term of decodes within 3 %, and prompts of any usual length within 5 %; the budget too.

    The base and the overhead of the CPU are one: timestamps do not tell them apart.
    """
    found = fit(served(costs, rate_rps, budget))
    assert (found.token_budget, found.ahead) == (budget, False)
    base_ns = costs.decode_base_ns + costs.overhead_ns
    assert found.costs.decode_base_ns == pytest.approx(base_ns, rel=0.03)
    assert found.costs.decode_per_context_ns == pytest.approx(costs.decode_per_context_ns, rel=0.03)
    # What a sequence adds is little beside its context: within 3 % of a step of the largest batch.
    for batch in (1, 16, 64):
        step_ns = costs.step_ns([], batch, batch * 700)
        assert found.costs.step_ns([], batch, batch * 700) == pytest.approx(step_ns, rel=0.03)
    for tokens in (512, 1024, 2048):
        prompt = ([(0, tokens)], 0, 0)
        assert found.costs.step_ns(*prompt) == pytest.approx(costs.step_ns(*prompt), rel=0.05)


def test_found_costs_foretell_the_same_server() -> None:
    """Means of blocks of requests the costs were not fitted to are within 1 %.

    Of the first token's, 12 %: it waits for what is left of a step, which chance decides.
    """
    measured = served(FAST, 8.0)
    found = fit(measured)
    folds = cross_validated(measured, found, ENGINE, 5)
    assert sum(one.requests for one in folds) == len(measured)
    for one in folds:
        assert max(abs(one.e2e), abs(one.tpot)) < 0.01
        assert abs(one.ttft) < 0.12
    assert abs(errors(measured, found, ENGINE, np.ones(len(measured), dtype=np.bool_)).ttft) < 0.02


def test_other_costs_are_not_foretold() -> None:
    """The errors do tell: of a server twice as slow they say so."""
    measured = served(FAST, 3.0)
    found = fit(measured)
    twice = replace(
        found, costs=replace(found.costs, decode_base_ns=2 * found.costs.decode_base_ns)
    )
    error = errors(measured, twice, ENGINE, np.ones(len(measured), dtype=np.bool_))
    assert error.tpot > 0.5
    assert error.e2e > 0.5


def test_a_rerun_at_the_same_costs_is_the_same() -> None:
    """The simulated server serves its own requests as it did."""
    measured = served(FAST, 8.0)
    again = rerun(measured, FAST, ENGINE.limits(measured, 2048))
    assert (again.first_s == measured.first_s).all()
    assert (again.last_s == measured.last_s).all()


def test_a_server_that_schedules_ahead_is_found_out() -> None:
    """Who arrives waits for one more step; that is seen, and the costs are found all the same."""
    plain = served(FAST, 8.0)
    measured = rerun(plain, FAST, ENGINE.limits(plain, 2048), ahead=True)
    assert measured.ttft_s.mean() > plain.ttft_s.mean() + 0.005
    found = fit(measured)
    assert found.ahead
    assert found.token_budget >= 2048  # too few prompts reach it for it to show exactly
    assert found.costs.decode_base_ns == pytest.approx(FAST.decode_base_ns, rel=0.05)
    everything = np.ones(len(measured), dtype=np.bool_)
    error = errors(measured, found, ENGINE, everything, ahead=True)
    assert max(abs(error.e2e), abs(error.tpot), abs(error.ttft)) < 0.05


def test_the_largest_batch_shows_when_requests_waited() -> None:
    """64 under load; twice what was seen where the limit never showed."""
    assert largest_batch(served(FAST, 20.0)) == 64
    assert largest_batch(served(FAST, 1.0)) < 2 * 64


def test_terms_are_never_negative() -> None:
    """A term that would have to be is left out, and the rest is fitted without it."""
    columns = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    terms, error = nonnegative(columns, np.array([3.0, 2.0, 1.0]), np.ones(3))
    assert terms.tolist() == pytest.approx([2.0, 0.0])
    assert error > 0.1
    terms, error = nonnegative(columns, np.array([3.0, 5.0, 7.0]), np.ones(3))
    assert terms.tolist() == pytest.approx([1.0, 2.0])
    assert error == pytest.approx(0.0, abs=1e-6)


def test_a_file_is_read_on_one_clock(tmp_path: Path) -> None:
    """Whatever the frontend's clock says; the order is that of arrival."""
    measured = served(FAST, 8.0, requests=20)
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(reversed(lines(measured))))
    found = read_measured(path)
    shift_s = measured.arrived_s[0]
    assert found.arrived_s == pytest.approx(measured.arrived_s - shift_s, abs=1e-6)
    assert found.last_s == pytest.approx(measured.last_s - shift_s, abs=1e-6)
    assert found.prompt_tokens.tolist() == measured.prompt_tokens.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queued_ts": "soon"}, "line 2, column queued_ts: expected a number"),
        ({"first_token_ts": 0}, "line 2, column first_token_ts: expected a time not before"),
        ({"input_toks": None}, "line 2, column input_toks: expected a whole number"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    """By file, line and column."""
    rows = lines(served(FAST, 8.0, requests=3))
    rows[1] = json.dumps(json.loads(rows[1]) | change)
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(rows))
    with pytest.raises(WorkloadError, match=message):
        read_measured(path)


def test_too_little_is_refused(tmp_path: Path) -> None:
    """No requests, too few of them, too many folds."""
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(WorkloadError, match="holds no requests"):
        read_measured(tmp_path / "none.jsonl")
    few = served(FAST, 8.0, requests=5)
    with pytest.raises(ValueError, match="requests of two tokens or more; a fit needs 8"):
        fit(few)
    measured = served(FAST, 8.0, requests=40)
    with pytest.raises(ValueError, match="30 folds of 40 requests"):
        cross_validated(measured, fit(measured), ENGINE, 30)
