"""`llumnix compare`: the same workloads for every policy, and intervals that mean something."""

import json
from pathlib import Path

import pytest

from llumnix.cli import main
from llumnix.planning.estimate import Estimate, estimate

SMALL = ["azure-conv-2023", "--requests=60", "--rate=4", "--instances=2", "--jobs=1"]


def test_what_is_compared_is_what_simulate_gives(tmp_path: Path) -> None:
    """Every run of the comparison equals the one `simulate` makes with that policy and seed."""
    found = tmp_path / "compared.json"
    policies = ["--policy=round-robin", "--policy=freeness"]
    assert main(["compare", *SMALL, *policies, "--seeds=2", f"--json={found}"]) == 0
    compared = json.loads(found.read_text())
    assert compared["seeds"] == [0, 1]
    for policy in ("round-robin", "freeness"):
        for seed, run in zip(compared["seeds"], compared["policies"][policy]["runs"], strict=True):
            alone = tmp_path / "alone.json"
            workload = [one for one in SMALL if not one.startswith("--jobs")]
            main(["simulate", *workload, f"--policy={policy}", f"--seed={seed}", f"--json={alone}"])
            result = json.loads(alone.read_text())
            assert run["TTFT mean, s"] == result["ttft_s"]["mean"]
            assert run["E2E p99, s"] == result["e2e_s"]["p99"]
            assert run["preemptions"] == result["preemptions"]
    mean = compared["policies"]["freeness"]["difference_from_first"]["TTFT mean, s"]["mean"]
    runs = compared["policies"]
    pairs = zip(runs["freeness"]["runs"], runs["round-robin"]["runs"], strict=True)
    by_hand = sum(one["TTFT mean, s"] - other["TTFT mean, s"] for one, other in pairs) / 2
    assert mean == pytest.approx(by_hand)


def test_an_interval_is_students() -> None:
    """Three values: t of two degrees of freedom, 4.303, times the standard error."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(4.303 / 3**0.5)
    assert estimate([5.0]) == Estimate(5.0, None)
    assert not estimate([1.0, -1.0]).certain
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_intervals_hold_what_they_promise() -> None:
    """Of many means of five normal draws, 95 % lie within theirs."""
    import numpy as np

    draws = np.random.default_rng(1).normal(3.0, 2.0, (4000, 5))
    found = [estimate(row.tolist()) for row in draws]
    inside = sum(abs(one.mean - 3.0) <= (one.half_width or 0.0) for one in found)
    assert 0.94 < inside / len(found) < 0.96


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds=0"], "1 or more"),
        (["--policy=freeness", "--policy=freeness"], "each policy once"),
        (["--policy=best"], "no dispatch policy 'best'"),
        (
            ["--policy=round-robin", "--policy=random", "--copy-slowdown=0.1"],
            "--copy-slowdown has no effect: migration is off",
        ),
        (["--set=fleet.speed=2"], "no simulation uses this section"),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *SMALL, *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "status"), [([], 2), (["--seeds=1"], 0), (["--requests=2"], 0), (["--seed=1"], 2)]
)
def test_seeds_need_something_to_draw(
    more: list[str], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole trace is the same for every seed: an interval over them would be a false promise."""
    trace = tmp_path / "trace.jsonl"
    rows = [{"arrival_s": at, "prompt_tokens": 9, "output_tokens": 3} for at in range(9)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policies = ["--policy=round-robin", "--policy=freeness"]
    given = ["compare", str(trace), *policies, "--instances=2", "--jobs=1", *more]
    assert main(given) == status
    assert ("is used whole" in capsys.readouterr().err) is (status == 2)


def test_a_setting_that_acts_under_one_of_the_policies_is_taken(tmp_path: Path) -> None:
    given = ["--policy=round-robin", "--policy=freeness", "--copy-slowdown=0.1", "--seeds=1"]
    assert main(["compare", *SMALL, *given]) == 0
