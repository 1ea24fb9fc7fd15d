"""The safety rules: what no policy may do. Stated once, here, so that policies stay simple."""

from collections.abc import Mapping

import numpy as np

from policies.explained import Vetoes
from policies.moves.order_book import OrderBook
from policies.types import (
    BoolColumn,
    DispatchRequest,
    FleetSnapshot,
    InstanceId,
    IntColumn,
    MigrateOrder,
)


def candidates(
    request: DispatchRequest, snapshot: FleetSnapshot, max_age_s: float
) -> tuple[IntColumn, Mapping[InstanceId, str]]:
    """List the rows a request may be dispatched to, and why each other row is excluded.

    A terminating instance never qualifies, nor does one of a group that does not fit. Instances
    with an old report, or too small for the prompt, are avoided only while there are others: stale
    knowledge beats none, and a request too large for every instance is refused by an engine, in the
    engine's words.
    """
    allowed: BoolColumn = ~snapshot.terminating
    rules: list[tuple[BoolColumn, str]] = []
    if snapshot.terminating.any():
        rules.append((snapshot.terminating, "terminating"))
    if request.model is not None:
        fitting = in_fitting_group(request, snapshot)
        if not fitting.all():
            rules.append((~fitting, f"it does not serve {request.model}"))
            allowed = allowed & fitting
    soft_rules: tuple[tuple[BoolColumn, str], ...] = (
        (snapshot.age_s > max_age_s, f"its report is older than {max_age_s:g} s"),
        (
            snapshot.capacity_tokens < request.prompt_tokens,
            f"smaller than {request.prompt_tokens} tokens",
        ),
    )
    for broken, reason in soft_rules:
        if not broken.any():
            continue
        spared = allowed & ~broken
        if spared.any():
            rules.append((allowed & broken, reason))
            allowed = spared
    return np.flatnonzero(allowed), Vetoes(snapshot.ids, rules) if rules else {}


def in_fitting_group(request: DispatchRequest, snapshot: FleetSnapshot) -> BoolColumn:
    """Return which rows are of a group that serves the request."""
    serves = np.array([group.serves(request.model) for group in snapshot.groups], dtype=np.bool_)
    fitting: BoolColumn = serves[snapshot.group]
    return fitting


def order_veto(
    order: MigrateOrder, snapshot: FleetSnapshot, book: OrderBook, now_s: float
) -> str | None:
    """Return why a migration must not be ordered; None when it may."""
    row = snapshot.rows
    if order.source == order.destination:
        return "source and destination are the same"
    for instance_id in (order.source, order.destination):
        if instance_id not in row:
            return f"{instance_id} is unknown"
        if snapshot.age_s[row[instance_id]] > book.config.max_age_s:
            return f"the report of {instance_id} is older than {book.config.max_age_s:g} s"
    if snapshot.terminating[row[order.destination]]:
        return f"{order.destination} is terminating"
    if snapshot.group[row[order.source]] != snapshot.group[row[order.destination]]:
        return f"{order.source} and {order.destination} belong to different groups"
    return book.objection(order, snapshot, row, now_s)
