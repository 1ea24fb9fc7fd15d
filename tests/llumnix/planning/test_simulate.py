"""`llumnix simulate`, from the command line to its files."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llumnix.cli import main
from llumnix.planning.time_breakdown import shares
from tests.simulator.simulated import simulate, workload

SMALL = ["azure-conv-2023", "--requests=120", "--rate=4", "--instances=4", "--seed=3"]


def test_equal_commands_give_equal_bytes(tmp_path: Path) -> None:
    """In two processes: results and rows are the same to the last byte."""
    for name in ("one", "two"):
        subprocess.run(
            [
                *(sys.executable, "-m", "llumnix", "simulate", *SMALL),
                *(f"--json={tmp_path / name}.json", f"--out={tmp_path / name}.csv"),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    for kind in ("json", "csv"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_the_files_agree_with_the_result(tmp_path: Path) -> None:
    """A row a request; means and counts in the JSON are those of the rows."""
    found = tmp_path / "out.json"
    table = tmp_path / "rows.csv"
    trace = tmp_path / "trace.json"
    page = tmp_path / "page.html"
    arguments = [f"--json={found}", f"--out={table}", f"--perfetto={trace}", "--why=7"]
    assert main(["simulate", *SMALL, *arguments, f"--report={page}"]) == 0
    result = json.loads(found.read_text())
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == result["requests"] == 120
    mean_s = sum(float(row["ttft_s"]) for row in rows) / len(rows)
    assert result["ttft_s"]["mean"] == pytest.approx(mean_s, abs=1e-5)
    assert sum(int(row["preemptions"]) for row in rows) == result["preemptions"]
    slices = [one for one in json.loads(trace.read_text())["traceEvents"] if one["ph"] == "X"]
    moves = sum(int(row["migrations"]) for row in rows)
    assert len(slices) == 120 + moves
    text = page.read_text()
    assert all(f"instance-{number}" in text for number in range(4))
    assert text.count("http://") + text.count("https://") == text.count("http://www.w3.org")


def test_the_parts_of_a_life_add_up() -> None:
    """`why` splits the time from arrival to the last token, and loses nothing of it."""
    _, lives = simulate(workload(150, rate=60))
    for life in lives:
        parts = shares(life)
        assert min(parts.values()) >= 0
        assert sum(parts.values()) == life.last_token_ns - life.arrived_ns


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--why=120"], "requests 0 to 119"),
        (["--outage=instance-0"], "INSTANCE@S"),
        (["--outage=instance-9@5"], "there is no instance-9"),
        (["--policy=best"], "no dispatch policy 'best'"),
        (["--instances=0"], "instances must be positive"),
        (["--out=rows.txt"], ".csv or .parquet"),
        (["--set=simulator.instnces=3"], "did you mean 'instances'"),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *SMALL, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_fleet_the_kernels_refuse_says_that_it_is_walked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["azure-conv-2023", "--requests=10", "--rate=4", "--instances=2", "--json=-"]
    assert main(["simulate", *arguments, "--set", "fleet.report_interval_s=20"]) == 0
    assert "walked step by step instead: its reports come too late" in capsys.readouterr().err
    assert main(["simulate", *arguments]) == 0
    assert "step by step" not in capsys.readouterr().err
