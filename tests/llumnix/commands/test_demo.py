"""The demo as a user runs it, small: its JSON, its report, its words when it is used wrongly."""

import json
from pathlib import Path

import pytest

from llumnix.cli import main
from llumnix.testbed.trial import PolicyChoice

KEYS = {
    "policy": str,
    "valid": bool,
    "requests": int,
    "finished": int,
    "failed": int,
    "rejected": int,
    "tokens_lost": int,
    "tokens_doubled": int,
    "tokens_wrong": int,
    "migrations_committed": int,
    "migrations_aborted": int,
    "preemptions": int,
}
SPREADS = {
    "downtime_ms": {"p50", "p99"},
    "decode_step_ms": {"p50"},
    "ttft_s": {"mean", "p50", "p99"},
    "tpot_s": {"mean", "p50", "p99"},
}


def demo(*arguments: str) -> int:
    return main(["demo", "--instances=2", "--speed=15", "--retries=0", *arguments])


def test_a_small_demo_checks_every_token_and_leaves_its_figures(tmp_path: Path) -> None:
    """Whether the run is *valid* depends on the machine; that its tokens are right does not.

    So a busy machine is marked, and no reason to fail.
    """
    figures, report = tmp_path / "out.json", tmp_path / "report.html"

    status = demo(
        "--requests=12",
        "--policy=round-robin",
        "--policy=freeness",
        "--high-share=0.3",
        f"--json={figures}",
        f"--report={report}",
    )

    assert status == 0
    runs = json.loads(figures.read_text())["runs"]
    assert [run["policy"] for run in runs] == ["round-robin", "freeness"]
    for run in runs:
        assert {key: type(run[key]) for key in KEYS} == KEYS
        assert all(set(run[key]) >= parts for key, parts in SPREADS.items())
        assert run["requests"] == run["finished"] + run["failed"] + run["rejected"] == 12
        assert run["failed"] == run["tokens_lost"] == run["tokens_doubled"] == 0
        assert run["tokens_wrong"] == run["texts_wrong"] == 0
        assert set(run["by_class"]) == {"high", "normal"}
        assert run["valid"] == (not run["validity"]["causes"])
        assert 0.0 <= run["validity"]["late_steps_share"] <= 1.0
        assert run["validity"]["discarded_runs"] == []
    page = report.read_text()
    assert "round-robin" in page
    assert "freeness + migration" in page
    assert "How far to trust these times" in page


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--trace=nothing-like-it"], "shipped profile"),
        (["--requests=0"], "must be positive"),
        (["--time-s=0"], "must be positive"),
        (["--speed=0"], "must be positive"),
        (["--report=/nowhere/at/all.html"], "no folder"),
        (["--json=/nowhere/at/all.json"], "no folder"),
        (["--policy=nonsense"], "no dispatch policy 'nonsense'; there are"),
        (["--set=emulator.nonsense=1"], "unknown key"),
    ],
)
def test_mistakes_end_with_status_2_and_say_what_to_do(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = demo("--requests=2", f"--report={tmp_path / 'r.html'}", *arguments)

    assert status == 2
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("freeness", PolicyChoice("freeness", migration=True)),
        ("freeness-migration", PolicyChoice("freeness", migration=False)),
        ("load-aware", PolicyChoice("load-aware", migration=False)),
        ("load-aware+migration", PolicyChoice("load-aware", migration=True)),
    ],
)
def test_a_policy_is_written_with_or_without_migration(text: str, choice: PolicyChoice) -> None:
    assert PolicyChoice.parse(text) == choice
