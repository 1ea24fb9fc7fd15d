"""`--draft-tokens` and `--acceptance`, from the command line to the figures of a run."""

import json
from pathlib import Path

import pytest

from llumnix.cli import main

SMALL = [
    "azure-conv-2023",
    "--requests=40",
    "--rate=3",
    "--instances=2",
    "--preset=toy",
    "--capacity-tokens=16384",
]
GUESSING = ["--draft-tokens=2", "--max-num-seqs=32"]


def test_a_sweep_over_the_acceptance_shows_what_it_is_worth(tmp_path: Path) -> None:
    """The more is guessed right the shorter is a token, down to a third; rows are simulations."""
    found = tmp_path / "rows.json"
    vary = "--vary=simulator.acceptance=0,0.5,1"
    assert main(["sweep", *SMALL, *GUESSING, vary, "--jobs=1", f"--json={found}"]) == 0
    tpot_s = [row["TPOT mean, s"] for row in json.loads(found.read_text())]
    assert tpot_s == sorted(tpot_s, reverse=True)
    assert tpot_s[0] / 3.5 < tpot_s[2] < tpot_s[0] / 2.5
    alone = tmp_path / "alone.json"
    assert main(["simulate", *SMALL, *GUESSING, "--acceptance=0.5", f"--json={alone}"]) == 0
    assert json.loads(alone.read_text())["tpot_s"]["mean"] == tpot_s[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--acceptance=0.5"], "no effect without draft_tokens"),
        (["--draft-tokens=2"], "draft_tokens needs acceptance"),
        (["--draft-tokens=8", "--acceptance=0.5"], "token_budget 512 is below max_num_seqs 128"),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *SMALL, *arguments]) == 2
    assert words in capsys.readouterr().err
