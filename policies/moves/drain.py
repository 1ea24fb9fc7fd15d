"""Empty terminating instances: everything that runs there moves where there is room."""

import numpy as np

from policies.moves.plan import Plan
from policies.moves.view import MovesView
from policies.types import MigrateOrder, MigrateReason


def propose_drains(view: MovesView) -> list[MigrateOrder]:
    """Order as many moves away from each terminating instance as slots and room allow."""
    terminating = view.snapshot.terminating
    orders: list[MigrateOrder] = []
    if not terminating.any():
        return orders
    plan = Plan(view)
    for row in np.flatnonzero(terminating).tolist():
        for _ in range(min(int(view.slots_out[row]), int(plan.running[row]))):
            order = _drain(plan, row) if len(orders) < view.slots else None
            if order is None:
                break
            orders.append(order)
    return orders


def _drain(plan: Plan, source: int) -> MigrateOrder | None:
    destination = plan.freest(source, ~plan.view.snapshot.terminating & (plan.room >= 1))
    if destination is None:
        return None
    bound = int(plan.room[destination])
    # The llumlet moves short requests first: planning with the mean keeps the drain wide, and a
    # destination that turns out short of memory refuses the reservation.
    expected = min(bound, int(plan.mean_context[source]))
    return plan.order(
        source, destination, bound, expected, MigrateReason.DRAIN, "it is terminating"
    )
