"""`llumnix sweep`: a row a combination, and the highest rate a fleet serves."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llumnix.cli import main

WORKLOAD = ["azure-conv-2023", "--requests=60", "--jobs=1"]
SMALL = [*WORKLOAD, "--instances=2"]


def sweep(tmp_path: Path, *arguments: str, given: list[str] = SMALL) -> list[dict[str, Any]]:
    found = tmp_path / "rows.json"
    assert main(["sweep", *given, *arguments, f"--json={found}"]) == 0
    rows: list[dict[str, Any]] = json.loads(found.read_text())
    return rows


def test_a_row_is_what_simulate_gives(tmp_path: Path) -> None:
    """Settings, policy and rate of a row are those of one simulation; files agree."""
    table = tmp_path / "rows.csv"
    key = "scheduler.rebalance.low_steps"
    rows = sweep(
        tmp_path, "--vary=policy=round-robin,freeness", f"--vary={key}=32,64", "--rate=1.5",
        f"--csv={table}",
    )  # fmt: skip
    assert [(row["policy"], row[key]) for row in rows] == [
        ("round-robin", "32"),
        ("round-robin", "64"),
        ("freeness", "32"),
        ("freeness", "64"),
    ]
    alone = tmp_path / "alone.json"
    workload = [one for one in SMALL if not one.startswith("--jobs")]
    arguments = ["--rate=1.5", "--policy=freeness", f"--set={key}=64", f"--json={alone}"]
    main(["simulate", *workload, *arguments])
    assert rows[-1]["TTFT p99, s"] == json.loads(alone.read_text())["ttft_s"]["p99"]
    written = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["E2E mean, s"]) for row in written] == [row["E2E mean, s"] for row in rows]


def test_more_instances_serve_a_higher_rate(tmp_path: Path) -> None:
    """Capacity grows with the fleet; at the rate found the SLO holds, a tenth above it does not."""
    slo = ("--slo-tpot-s=0.06", "--slo-ttft-s=1.0")
    rows = sweep(tmp_path, "--capacity", "--vary=simulator.instances=1,3", *slo, given=WORKLOAD)
    rates = [row["capacity, requests/s"] for row in rows]
    assert 0 < rates[0] < rates[1]
    shares = {}
    for factor in (1.0, 1.1):
        rate = f"--rate={rates[1] * factor}"
        (row,) = sweep(tmp_path, "--vary=simulator.instances=3", rate, *slo, given=WORKLOAD)
        shares[factor] = row["good share"]
    assert shares[1.0] >= 0.9
    assert shares[1.1] < 0.97


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vary=low_steps"], "KEY=VALUE"),
        (["--vary=policy=a,a"], "each value once"),
        (["--vary=rate=fast"], "'fast' is not a number"),
        (["--vary=scheduler.lowsteps=3"], "unknown key"),
        (["--vary=policy=best"], "no dispatch policy 'best'"),
        (["--capacity"], "needs --slo"),
        (["--capacity", "--slo-ttft-s=1", "--vary=rate=1,2"], "cannot be varied"),
        (["--jobs=0"], "--jobs must be 1"),
        (["--vary=simulator.instances=2,3"], "--instances has no effect: it is varied"),
        (["--vary=requests=5,6"], "--requests has no effect: it is varied"),
        (["--rate=3", "--vary=rate=1,2"], "--rate has no effect: it is varied"),
        (["--policy=freeness", "--vary=policy=random"], "--policy has no effect: it is varied"),
        (["--seed=3", "--vary=seed=1,2"], "--seed has no effect: it is varied"),
        (
            ["--vary=scheduler.rebalance.low_steps=32,64", "--policy=round-robin"],
            "--vary scheduler.rebalance.low_steps has no effect: migration is off",
        ),
        (["--vary=emulator.token_budget=512,600"], "no simulation uses this section"),
        (
            ["--copy-slowdown=0.1", "--vary=policy=round-robin,random"],
            "--copy-slowdown has no effect: migration is off",
        ),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *SMALL, *arguments]) == 2
    assert words in capsys.readouterr().err
