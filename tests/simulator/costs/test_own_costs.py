"""The costs in simulator/README.md work as printed: they keep the law, and a fleet runs on them."""

import re
from pathlib import Path

import pytest

import simulator
from migration.config import MigrationConfig
from policies.scheduler import SchedulerConfig
from simulator.costs import presets as costs
from simulator.fleet.options import SimulatorConfig
from simulator.fleets import fleet_for
from tests.simulator.simulated import workload

README = Path(next(iter(simulator.__path__))) / "README.md"


def waits_ns(preset: str) -> int:
    """Serve a small workload, by the kernel that is soonest done; sums up all waits for the end."""
    config = SimulatorConfig(instances=2, preset=preset)
    fleet = fleet_for(config, SchedulerConfig(), MigrationConfig(), requests=40)
    lives = fleet.run(workload(40, 2.0))
    assert all(life.finished for life in lives)
    return sum(life.last_token_ns - life.arrived_ns for life in lives)


def test_the_example_in_the_readme_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "PRESETS", dict(costs.PRESETS))
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    exec(compile(example, str(README), "exec"), {"__name__": __name__})

    padded, exact = costs.preset("padded").costs, costs.preset("llama-7b-a10").costs
    assert padded.step_ns([(0, 10)], 3, 500) == exact.step_ns([(0, 10)], 8, 500)
    cost_ns = [padded.step_ns([], batch, 5_000) for batch in range(40)]
    assert cost_ns == sorted(cost_ns)
    assert waits_ns("padded") > waits_ns("llama-7b-a10")
