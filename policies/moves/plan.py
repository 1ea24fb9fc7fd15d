"""One proposer's plan: what instances have left once the planned moves have landed."""

import numpy as np

from policies import columns
from policies.explained import Scores
from policies.moves.view import MovesView
from policies.types import BoolColumn, Explanation, FloatColumn, IntColumn, MigrateOrder
from policies.usage import batch_size, freeness, owed_tokens, virtual_usage


class Plan:
    """Working state of a proposer that pairs sources with the freest instances of their group.

    Sources are judged by the head of their queue alone, so that a short queue is no alarm;
    destinations by everything they owe, so that no move jumps their own queue.
    """

    def __init__(self, view: MovesView) -> None:
        fleet = view.snapshot
        self.view = view
        self.running: IntColumn = batch_size(fleet, "head")
        self.source_freeness = freeness(fleet, view.headroom_tokens, "head")
        self.source_room = fleet.capacity_tokens - virtual_usage(
            fleet, view.headroom_tokens, "head"
        )
        # A terminating source's infinite usage would make its numbers useless; it is no
        # destination.
        self.room = columns.room_for_moves(
            np.where(fleet.terminating, 0.0, self.source_room),
            np.where(fleet.terminating, 0, fleet.head_demand_tokens),
            owed_tokens(fleet, "whole"),
        )
        self.batch: IntColumn = batch_size(fleet, "whole")
        self.slots_in = view.slots_in.copy()
        self.is_source = np.array([i in view.sources for i in fleet.ids], dtype=np.bool_)
        self.mean_context = fleet.physical_tokens / np.maximum(1, self.running)

    def freest(self, source: int, allowed: BoolColumn) -> int | None:
        """Find the freest allowed instance of the source's group that has a slot left."""
        group = self.view.snapshot.group
        rows = np.flatnonzero(allowed & (group == group[source]) & (self.slots_in > 0))
        return int(rows[np.argmax(self._freeness()[rows])]) if len(rows) else None

    def order(
        self, source: int, destination: int, bound: int, expected: int, reason: str, note: str
    ) -> MigrateOrder:
        """Order a move, and account for the room it is expected to take."""
        ids = self.view.snapshot.ids
        free = self._freeness()
        self.room[destination] -= expected
        self.batch[destination] += 1
        self.slots_in[destination] -= 1
        text = (
            f"{ids[source]} has {self.source_freeness[source]:.0f} steps left, "
            f"{ids[destination]} {free[destination]:.0f}: {note}"
        )
        why = Explanation(reason, Scores(ids, self.source_freeness), note=text)
        return MigrateOrder(ids[source], ids[destination], bound, reason, why, expected)

    def _freeness(self) -> FloatColumn:
        return columns.steps_to_full(self.room, self.batch)
