"""Scaling by command: what it costs is in the results, and its settings act or are refused."""

import json
from pathlib import Path

import pytest

from llumnix import cli
from llumnix.config import Config, describe
from llumnix.errors import ConfigError
from llumnix.planning.idle_settings import refuse_idle
from llumnix.planning.simulate import settings_of

MOST = "--set=simulator.scaling.max_instances=5"
QUICK = [
    "--set=simulator.scaling.window_s=1",
    "--set=simulator.scaling.cooldown_s=1",
    "--start-delay-s=3",
]
TOY = ["--preset=toy", "--max-num-seqs=16", "--token-budget=64"]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """A load that rises and falls: one request a second, then forty, then one again."""
    gaps_s = [1.0] * 5 + [0.025] * 300 + [1.0] * 20
    path, at_s = tmp_path / "trace.jsonl", 0.0
    with path.open("w") as file:
        for gap_s in gaps_s:
            at_s += gap_s
            row = {"arrival_s": at_s, "prompt_tokens": 200, "output_tokens": 150}
            file.write(json.dumps(row) + "\n")
    return str(path)


def simulated(trace: str, tmp_path: Path, *more: str) -> dict[str, float]:
    """Run the command, and read what it wrote."""
    out = tmp_path / "out.json"
    assert cli.main(["simulate", trace, *TOY, *more, f"--json={out}"]) == 0
    found: dict[str, float] = json.loads(out.read_text())
    return found


def check(*words: str) -> None:
    args = cli.parser("simulate").parse_args(["simulate", "azure-conv-2023", *words])
    refuse_idle(args, [settings_of(args)])


@pytest.mark.parametrize("kernel", ["steps", "plain"])
def test_a_fleet_that_keeps_its_size_holds_all_its_machines_throughout(
    kernel: str, trace: str, tmp_path: Path
) -> None:
    result = simulated(trace, tmp_path, "--instances=3", f"--kernel={kernel}")
    assert result["instance_seconds"] == pytest.approx(3 * result["duration_s"], abs=1e-5)


def test_a_scaled_fleet_costs_less_than_the_largest_and_serves_all(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is larger than the smallest for a while; the table says what it cost."""
    report, perfetto = tmp_path / "page.html", tmp_path / "trace.json"
    files = [f"--report={report}", f"--perfetto={perfetto}"]
    result = simulated(trace, tmp_path, "--instances=1", MOST, *QUICK, *files)
    assert result["finished"] == result["requests"]
    assert result["duration_s"] < result["instance_seconds"] < 5 * result["duration_s"]
    assert f"{result['instance_seconds']:.1f}" in capsys.readouterr().out
    page = report.read_text()
    assert "scaled to 5 at most" in page
    assert "How large the fleet was" in page
    assert "instance-1" in page
    assert "instance-1" in perfetto.read_text()


SETTINGS = [
    "--start-delay-s=3",
    "--set=simulator.start_delay_s=3",
    *(
        f"--set=simulator.scaling.{name}"
        for name in (
            "min_instances=2",
            "low_steps=9",
            "high_steps=99",
            "window_s=1",
            "cooldown_s=1",
        )
    ),
]


@pytest.mark.parametrize("option", SETTINGS)
def test_settings_of_scaling_need_scaling(option: str) -> None:
    name = option.removeprefix("--set=").partition("=")[0]
    with pytest.raises(ConfigError, match=f"{name} has no effect: scaling is off"):
        check(option)
    check(option, MOST, "--instances=3")


def test_bounds_that_leave_no_choice_are_refused() -> None:
    least = "--set=simulator.scaling.min_instances=5"
    with pytest.raises(ConfigError, match="_instances has no effect: min_instances and max_"):
        check(MOST, least, "--instances=5")


def test_scaling_drains_and_gives_one_instance_somewhere_to_move_to() -> None:
    drain, slowdown = "--set=scheduler.rebalance.max_concurrent_drain=2", "--copy-slowdown=0.1"
    with pytest.raises(ConfigError, match="drains instances only when scaling"):
        check(drain)
    with pytest.raises(ConfigError, match="a single instance has nowhere"):
        check(slowdown, "--instances=1")
    check(drain, slowdown, "--instances=1", MOST)


def test_a_file_that_scales_nothing_must_not_say_how(tmp_path: Path) -> None:
    """But one that holds all defaults, as `llumnix config` prints them, may."""
    path = tmp_path / "settings.yaml"
    path.write_text("simulator: {start_delay_s: 9}")
    with pytest.raises(ConfigError, match=r"start_delay_s in .* has no effect: scaling is off"):
        check(f"--config={path}")
    path.write_text("simulator: {instances: 2, start_delay_s: 9, scaling: {max_instances: 3}}")
    check(f"--config={path}")
    path.write_text(describe(Config()))
    check(f"--config={path}")


def test_a_fleet_outside_its_bounds_is_not_run(
    trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["simulate", trace, "--instances=6", MOST]) == 2
    assert "a fleet of 6 instances cannot be kept between 1 and 5" in capsys.readouterr().err
