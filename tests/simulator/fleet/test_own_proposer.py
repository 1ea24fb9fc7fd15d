"""A fleet whose moves others propose is walked step by step, and they act in it."""

import dataclasses

import pytest

from migration.config import MigrationConfig
from policies.moves.proposers import DEFAULT_MOVES, move_policies
from policies.moves.view import MovesView
from policies.registry import NoParams, PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import Explanation, MigrateOrder
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Fate
from simulator.fleets import fleet_for
from simulator.kernel.fleet import FastFleet
from tests.simulator.simulated import SMALL, workload


def test_own_moves_are_walked_and_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the shipped proposers see no reason for any, one that always asks is heard."""
    monkeypatch.setattr(move_policies, "_entries", dict(move_policies._entries))

    @move_policies.register("restless", NoParams)
    def restless(view: MovesView, _: NoParams) -> list[MigrateOrder]:
        running, ids = view.snapshot.class_running.sum(axis=1), view.snapshot.ids
        if not view.slots or running.max() == 0:
            return []
        why = Explanation("restless")
        order = ids[running.argmax()], ids[running.argmin()]
        return [MigrateOrder(*order, 1_000, "restless", why)]

    # So low a threshold is never reached: no instance is too full.
    calm = SchedulerConfig().rebalance
    calm = dataclasses.replace(calm, low_steps=-1e9, hysteresis_steps=0.0)
    usual = SchedulerConfig(rebalance=calm)
    own = dataclasses.replace(usual, moves=(*DEFAULT_MOVES, PolicySpec("restless")))
    requests, moved = workload(60, rate=40.0), {}
    for name, scheduler in (("usual", usual), ("own", own)):
        fleet = fleet_for(SMALL, scheduler, MigrationConfig(), requests=len(requests))
        assert isinstance(fleet, FastFleet if name == "usual" else SimulatedFleet)
        lives = fleet.run(requests)
        assert all(life.fate is Fate.FINISHED for life in lives)
        moved[name] = sum(event.kind == "committed" for _, event in fleet.moves.log)

    assert moved["usual"] == 0
    assert moved["own"] > 0
    kernel = dataclasses.replace(SMALL, kernel="plain")
    with pytest.raises(ValueError, match="its moves are not the default"):
        fleet_for(kernel, own, MigrationConfig(), requests=10)
