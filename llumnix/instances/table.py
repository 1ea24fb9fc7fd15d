"""All instances of the fleet, and their latest reports as the scheduler's snapshot.

Nothing is computed anew for the whole fleet because one instance reported: what changed is noted,
and brought up to date row by row before it is next looked at.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from llumnix.instances.columns import LoadColumns
from llumnix.instances.condition.breaker import BreakerLimits
from llumnix.instances.instance import Instance, InstanceState
from policies.groups import Group
from policies.types import FleetSnapshot, InstanceId, InstanceLoad, IntColumn


class _Row:
    """What the table's columns and lists say of one instance."""

    __slots__ = ("alive", "group", "id", "load", "number", "up")

    def __init__(self, number: int, instance: Instance) -> None:
        self.number = number
        self.id = instance.id
        self.group = instance.group
        self.load: InstanceLoad | None = None
        self.alive = self.up = False


class InstanceTable:
    """The instances by id, in the order in which they were added. `now_s` is the fleet's clock.

    `breaker` says when an instance that keeps failing is left alone. `revision` grows with every
    change but reports that follow another.
    """

    def __init__(
        self,
        n_classes: int,
        now_s: Callable[[], float],
        breaker: BreakerLimits | None = None,
    ) -> None:
        self.revision = 0
        self._instances: list[Instance] = []
        self._breaker = breaker or BreakerLimits()
        self._now_s = now_s
        self._columns = LoadColumns(n_classes)
        self._rows: dict[Instance, _Row] = {}
        self._by_id: dict[str, Instance] = {}
        self._changed: set[Instance] = set()
        self._reported: set[Instance] = set()
        self._odd: set[Instance] = set()
        self._alive: list[Instance] | None = None
        self._up: list[Instance] | None = None
        self._groups: frozenset[Group] | None = None
        self._without_plugin: set[Instance] = set()

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._instances)

    def __len__(self) -> int:
        return len(self._instances)

    def add(self, instance: Instance) -> None:
        """Add an instance."""
        instance.fitness.breaker.limits = self._breaker
        instance.watch(partial(self._noted, instance))
        instance.fitness.watch(lambda _: self._unlike(instance))
        self._instances.append(instance)
        self._renumber()

    def remove(self, instance: Instance) -> None:
        """Remove an instance that is there."""
        self._instances.remove(instance)
        instance.watch(_nothing)
        instance.fitness.watch(_nothing)
        self._renumber()

    def get(self, instance_id: InstanceId | str | None) -> Instance | None:
        """Return an instance by id; None if there is none."""
        self._settle()
        return None if instance_id is None else self._by_id.get(instance_id)

    def alive(self) -> list[Instance]:
        """Return the instances that are up and have reported, draining ones included."""
        self._settle()
        if self._alive is None:
            self._alive = [each for each in self._instances if self._rows[each].alive]
        return list(self._alive)

    def up(self) -> list[Instance]:
        """Return the instances that take requests."""
        self._settle()
        if self._up is None:
            self._up = [each for each in self._instances if self._rows[each].up]
        return list(self._up)

    def any_plugged(self) -> bool:
        """Return whether any instance, up or not, has the plugin."""
        self._settle()
        return len(self._without_plugin) < len(self._instances)

    def without_plugin(self) -> Iterable[Instance]:
        """Return the instances, up or not, that have no plugin."""
        self._settle()
        return self._without_plugin

    def groups(self) -> frozenset[Group]:
        """Return the groups that there are instances of, up or not."""
        self._settle()
        if self._groups is None:
            self._groups = frozenset(row.group for row in self._rows.values())
        return self._groups

    def odd(self, now_s: float) -> Iterable[Instance]:
        """Return the instances that are not up, or that something may speak against (wall time).

        All others are up and sound. Those that were odd and are not any more are found here.
        """
        self._settle()
        for each in [each for each in self._odd if _usual(each, now_s)]:
            self._odd.discard(each)
        return self._odd

    def row(self, instance: Instance) -> int:
        """Return an instance's place in the order; it must be in the table."""
        self._settle()
        return self._rows[instance].number

    def at(self, row: int) -> Instance:
        """Return the instance at a place in the order."""
        return self._instances[row]

    def snapshot(self, instances: Sequence[Instance]) -> FleetSnapshot:
        """Return a snapshot of these instances (all alive) at this moment."""
        self._settle()
        rows = [self._rows[each].number for each in instances if each.load is not None]
        return self.snapshot_of(np.array(rows, dtype=np.int64))

    def alone(self, instance: Instance) -> FleetSnapshot:
        """Return a snapshot of one instance, which must have reported."""
        self._settle()
        return self._columns.alone(self._rows[instance].number, self._now_s())

    def snapshot_of(self, rows: IntColumn | None) -> FleetSnapshot:
        """Return a snapshot of the instances in these rows, all alive; None for every instance."""
        self._settle()
        if rows is not None and len(rows) == len(self._instances) and _ascending(rows):
            rows = None
        return self._columns.snapshot(rows, self._now_s())

    def _renumber(self) -> None:
        self.revision += 1
        self._rows = {each: _Row(row, each) for row, each in enumerate(self._instances)}
        self._columns.resize([each.id for each in self._instances])
        self._columns.regroup([each.group for each in self._instances])
        self._name()
        self._alive = self._up = self._groups = None
        self._odd.clear()
        self._without_plugin.clear()
        self._reported.clear()
        self._changed.clear()
        self._changed.update(self._instances)

    def _name(self) -> None:
        # Of two with one name, which there may be for a moment, the first counts.
        self._by_id = {each.id: each for each in reversed(self._instances)}

    def _noted(self, instance: Instance, what: str) -> None:
        if what != "load":
            self._unlike(instance)
            return
        self._reported.add(instance)
        if instance.load is None or self._rows[instance].load is None:
            self.revision += 1

    def _unlike(self, instance: Instance) -> None:
        self._changed.add(instance)
        self.revision += 1

    def _settle(self) -> None:
        """Bring up to date what is known of the instances that have changed."""
        while self._reported:
            each = self._reported.pop()
            row, load = self._rows[each], each.load
            if load is None or row.load is None:
                self._changed.add(each)
            else:  # a report like any other: nothing else has changed
                row.load = load
                self._columns.put(row.number, load)
        while self._changed:
            each = self._changed.pop()
            self._refresh(each, self._rows[each])

    def _refresh(self, instance: Instance, row: _Row) -> None:
        load = instance.load
        if load is not row.load:
            row.load = load
            if load is not None:
                self._columns.put(row.number, load)
        if instance.id != row.id:
            row.id = instance.id
            self._columns.rename(row.number, row.id)
            self._name()
        if instance.group is not row.group:
            self._regroup(instance, row)
        _put_if(self._without_plugin, instance, not instance.plugged)
        up, alive = instance.state is InstanceState.UP, instance.alive
        if (up, alive) != (row.up, row.alive):
            row.up, row.alive = up, alive
            self._alive = self._up = None
        # Time alone makes nothing odd; what it makes usual again is noticed in `odd`.
        _put_if(self._odd, instance, not _usual(instance, 0.0))

    def _regroup(self, instance: Instance, row: _Row) -> None:
        same, row.group = instance.group == row.group, instance.group
        if not same:
            self._groups = None
            self._columns.regroup([self._rows[each].group for each in self._instances])


def _usual(instance: Instance, now_s: float) -> bool:
    return instance.fitness.sound(now_s) and instance.state is InstanceState.UP


def _put_if(some: set[Instance], instance: Instance, belongs: bool) -> None:
    if belongs:
        some.add(instance)
    else:
        some.discard(instance)


def _ascending(rows: IntColumn) -> bool:
    """Whether these are all rows in order; there are as many as instances."""
    return bool((rows == np.arange(len(rows))).all())


def _nothing(_: str) -> None:
    """Do nothing: nobody watches an instance that has left."""
