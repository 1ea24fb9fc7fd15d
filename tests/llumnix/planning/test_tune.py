"""`llumnix tune`: what is written can be served with, and is no worse than what was given."""

from pathlib import Path

import pytest
import yaml

from llumnix.cli import main
from llumnix.config import load_config
from llumnix.planning.tune import Range

SMALL = ["azure-conv-2023", "--requests=80", "--rate=5", "--instances=3", "--jobs=1"]
QUICK = ["--candidates=4", "--check-seeds=3", "--objective=ttft-mean"]


def test_what_makes_things_better_is_found_and_can_be_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From room that is far too large, any candidate is a relief; `serve` takes the file."""
    given, tuned = tmp_path / "given.yaml", tmp_path / "tuned.yaml"
    given.write_text(
        "scheduler: {dispatch: {name: freeness, params: {growth_steps: 3000}}}\n"
        "frontend: {queue_limit: 77}\n"
    )
    space = ["--param=scheduler.dispatch.params.growth_steps=0.0:64.0"]
    assert main(["tune", *SMALL, *QUICK, *space, f"--config={given}", f"--out={tuned}"]) == 0
    config = load_config(tuned)
    growth = config.scheduler.dispatch.params["growth_steps"]
    assert isinstance(growth, float)
    assert 0 <= growth <= 64
    assert config.frontend.queue_limit == 77
    assert f"growth_steps: {growth:g}" in capsys.readouterr().out


def test_without_anything_better_all_stays(tmp_path: Path) -> None:
    """Candidates that hold everything back lose to the settings as they are."""
    tuned = tmp_path / "tuned.yaml"
    space = ["--param=scheduler.dispatch.params.growth_steps=2000:4000"]
    assert main(["tune", *SMALL, *QUICK, *space, f"--out={tuned}"]) == 1
    assert yaml.safe_load(tuned.read_text()) == {}


def test_whole_numbers_stay_whole() -> None:
    assert Range.parse("a.b=1:9") == Range("a.b", 1.0, 9.0, whole=True)
    assert Range.parse("a.b=1.0:9") == Range("a.b", 1.0, 9.0, whole=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--param=a"], "KEY=LOW:HIGH"),
        (["--param=a=9:1"], "LOW below HIGH"),
        (["--param=a=x:y"], "KEY=LOW:HIGH"),
        (["--param=scheduler.rebalance.lowsteps=1:9"], "did you mean 'low_steps'"),
        (["--param=scheduler.rebalance.low_steps=500:900"], "must not exceed high_steps"),
        (["--candidates=1"], "2 or more"),
        (
            ["--param=scheduler.rebalance.low_steps=8:64", "--policy=round-robin"],
            "--param scheduler.rebalance.low_steps has no effect: migration is off",
        ),
        (["--param=frontend.queue_limit=1:9"], "no simulation uses this section"),
        (["--set=migration.chunk_bytes=9"], "a simulation has no sockets"),
        (["--out=/nowhere/at/all.yaml", "--param=simulator.copy_slowdown=0.1:0.2"], "cannot write"),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *SMALL, *QUICK, f"--out={tmp_path / 'out.yaml'}", *arguments]) == 2
    assert words in capsys.readouterr().err
