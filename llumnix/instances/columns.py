"""The latest reports as columns: one report changes one row, and a snapshot is one copy."""

from collections.abc import Sequence

import numpy as np

from policies.groups import ANY, Group
from policies.types import (
    FleetSnapshot,
    FloatColumn,
    InstanceId,
    InstanceIds,
    InstanceLoad,
    IntColumn,
)

_TERMINATING = 6
_FIXED = 7
"""How many columns of a load are one number each."""
_SELECTIONS = 8
"""For how many selections of rows the ids are kept; a fleet uses two or three."""


class LoadColumns:
    """A row per instance, in the fleet's order. Rows without a report are never asked for.

    A snapshot's arrays are its own and cannot be written to: whoever has one has the fleet as it
    was at that moment, whatever is reported meanwhile.
    """

    def __init__(self, n_classes: int) -> None:
        self._n_classes = n_classes
        self._block = np.zeros((_FIXED + 2 * n_classes, 0), dtype=np.int64)
        self._reported_at_s = np.zeros(0)
        self._group = np.zeros(0, dtype=np.int64)
        self._zeros = np.zeros(0, dtype=np.int64)
        self._ids: list[InstanceId] = []
        self._groups: tuple[Group, ...] = ()
        self._selections: dict[bytes | None, InstanceIds] = {}
        self._taken: tuple[bytes | None, FleetSnapshot] | None = None

    def resize(self, ids: Sequence[InstanceId]) -> None:
        """Have a row for each of these; what was in them is lost."""
        self._block = np.zeros((_FIXED + 2 * self._n_classes, len(ids)), dtype=np.int64)
        self._reported_at_s = np.zeros(len(ids))
        self._group = np.zeros(len(ids), dtype=np.int64)
        self._ids = list(ids)
        self._forget()

    def rename(self, row: int, instance_id: InstanceId) -> None:
        """Give a row another id."""
        self._ids[row] = instance_id
        self._forget()

    def regroup(self, groups: Sequence[Group]) -> None:
        """Set the group of each row."""
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        self._groups = tuple(numbers) or (ANY,)
        self._group = np.array([numbers[group] for group in groups], dtype=np.int64)
        self._group.flags.writeable = False
        self._taken = None

    def put(self, row: int, load: InstanceLoad) -> None:
        """Take over a report. Every request in it must have a class (`InstanceLoad.classed`)."""
        assert not load.unclassed_running + load.unclassed_waiting, load
        classes = self._n_classes
        self._block[:, row] = (
            load.capacity_tokens,
            load.physical_tokens,
            load.head_demand_tokens,
            load.queued_demand_tokens,
            load.reserved_tokens,
            load.prefill_backlog_tokens,
            load.terminating,
            *_fitted(load.running, classes),
            *_fitted(load.waiting, classes),
        )
        self._reported_at_s[row] = load.reported_at_s
        self._taken = None

    def snapshot(self, rows: IntColumn | None, now_s: float) -> FleetSnapshot:
        """Return these rows, in this order, at this moment; None for all."""
        key = None if rows is None else rows.tobytes()
        reported_at_s = self._reported_at_s if rows is None else self._reported_at_s[rows]
        age_s = now_s - reported_at_s
        if self._taken is None or self._taken[0] != key:
            block = self._block.copy() if rows is None else self._block[:, rows]
            group = self._group if rows is None else self._group[rows]
            self._taken = key, self._written(self._ids_of(rows, key), block, group, age_s)
            return self._taken[1]
        last = self._taken[1]
        return FleetSnapshot(
            last.ids,
            last.capacity_tokens,
            last.physical_tokens,
            last.head_demand_tokens,
            last.queued_demand_tokens,
            last.reserved_tokens,
            last.prefill_backlog_tokens,
            last.class_running,
            last.class_waiting,
            last.terminating,
            age_s,
            last.in_flight_tokens,
            last.in_flight_requests,
            last.group,
            last.groups,
        )

    def alone(self, row: int, now_s: float) -> FleetSnapshot:
        """Return one row at this moment."""
        ids = InstanceIds(self._ids[row : row + 1])
        age_s = now_s - self._reported_at_s[row : row + 1]
        block, group = self._block[:, row : row + 1].copy(), self._group[row : row + 1]
        return self._written(ids, block, group, age_s)

    def _written(
        self, ids: tuple[InstanceId, ...], block: IntColumn, group: IntColumn, age_s: FloatColumn
    ) -> FleetSnapshot:
        block.flags.writeable = False
        zeros = self._zeros
        if len(zeros) != len(ids):
            zeros = self._zeros = np.zeros(len(ids), dtype=np.int64)
            zeros.flags.writeable = False
        waiting = _FIXED + self._n_classes
        return FleetSnapshot(
            ids,
            block[0],
            block[1],
            block[2],
            block[3],
            block[4],
            block[5],
            block[_FIXED:waiting].T,
            block[waiting:].T,
            block[_TERMINATING] > 0,
            age_s,
            zeros,
            zeros,
            group,
            self._groups,
        )

    def _ids_of(self, rows: IntColumn | None, key: bytes | None) -> InstanceIds:
        ids = self._selections.get(key)
        if ids is None:
            if len(self._selections) >= _SELECTIONS:
                self._selections.clear()
            chosen = self._ids if rows is None else [self._ids[row] for row in rows.tolist()]
            ids = self._selections[key] = InstanceIds(chosen)
        return ids

    def _forget(self) -> None:
        self._selections.clear()
        self._taken = None


def _fitted(counts: Sequence[int], classes: int) -> Sequence[int]:
    """Return a count per class; an engine's further classes count as the least urgent we know."""
    known = len(counts)
    if known == classes:
        return counts
    if known < classes:
        return (*counts, *(0,) * (classes - known))
    return (*counts[: classes - 1], sum(counts[classes - 1 :]))
