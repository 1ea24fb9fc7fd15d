"""All instances of the fleet, and their latest reports as the scheduler's snapshot."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from llumnix.instances.condition.breaker import BreakerLimits
from llumnix.instances.instance import Instance, InstanceState
from policies.groups import Group
from policies.types import FleetSnapshot, InstanceId, InstanceLoad


class InstanceTable:
    """The instances by id, in the order in which they were added. `now_s` is the fleet's clock.

    `breaker` says when an instance that keeps failing is left alone.
    """

    def __init__(
        self,
        n_classes: int,
        now_s: Callable[[], float],
        breaker: BreakerLimits | None = None,
    ) -> None:
        self._instances: list[Instance] = []
        self._breaker = breaker or BreakerLimits()
        self._n_classes = n_classes
        self._now_s = now_s
        self._loads: tuple[InstanceLoad, ...] = ()
        self._groups: tuple[Group, ...] = ()
        self._built = FleetSnapshot.of((), 0.0, n_classes)
        self._built_at_s = 0.0

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._instances)

    def __len__(self) -> int:
        return len(self._instances)

    def add(self, instance: Instance) -> None:
        """Add an instance."""
        instance.fitness.breaker.limits = self._breaker
        self._instances.append(instance)

    def remove(self, instance: Instance) -> None:
        """Remove an instance that is there."""
        self._instances.remove(instance)

    def get(self, instance_id: InstanceId | str | None) -> Instance | None:
        """Return an instance by id; None if there is none."""
        return next((each for each in self._instances if each.id == instance_id), None)

    def alive(self) -> list[Instance]:
        """Return the instances that are up and have reported, draining ones included."""
        return [each for each in self._instances if each.alive]

    def up(self) -> list[Instance]:
        """Return the instances that take requests."""
        return [each for each in self._instances if each.state is InstanceState.UP]

    def any_plugged(self) -> bool:
        """Return whether any instance, up or not, has the plugin."""
        return any(each.plugged for each in self._instances)

    def snapshot(self, instances: Sequence[Instance]) -> FleetSnapshot:
        """Return a snapshot of these instances (all alive) at this moment."""
        loads = [each.load for each in instances if each.load is not None]
        groups = tuple(each.group for each in instances if each.load is not None)
        now_s = self._now_s()
        # Loads are frozen, so the same objects are the same reports: only their age changes.
        known = len(loads) == len(self._loads) and all(map(_same, self._loads, loads))
        if known and groups == self._groups:
            older_s = now_s - self._built_at_s
            return replace(self._built, age_s=np.add(self._built.age_s, older_s))
        self._loads, self._groups = tuple(loads), groups
        self._built = FleetSnapshot.of(self._loads, now_s, self._n_classes, groups)
        self._built_at_s = now_s
        return self._built


def _same(mine: InstanceLoad, theirs: InstanceLoad) -> bool:
    return mine is theirs
