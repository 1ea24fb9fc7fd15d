"""Who proposes moves: the registry, and the shipped proposers.

A proposer says which instances should hand requests to which; counting what is under way and
pausing after a failure are done once, by the scheduler. To add a proposer, write a function like
these and register it: policies/README.md.
"""

from policies.moves.drain import propose_drains
from policies.moves.rebalance import propose_relief
from policies.moves.view import MovesView
from policies.registry import NoParams, PolicySpec, Registry
from policies.types import MigrateOrder

move_policies: Registry[MovesView, list[MigrateOrder]] = Registry("move policy")

DEFAULT_MOVES = (PolicySpec("drain"), PolicySpec("rebalance"))


@move_policies.register("drain", NoParams)
def drain(view: MovesView, _: NoParams) -> list[MigrateOrder]:
    """Empty the terminating instances."""
    return propose_drains(view)


@move_policies.register("rebalance", NoParams)
def rebalance(view: MovesView, _: NoParams) -> list[MigrateOrder]:
    """Relieve the instances that are too full (the paper's policy)."""
    return propose_relief(view)
