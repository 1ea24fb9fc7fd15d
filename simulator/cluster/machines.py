"""Machines that instances run on, and for how long they are paid for."""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.types import InstanceId


@dataclass(slots=True)
class Machine:
    """What an instance runs on: held from its order on, until it is returned (never, if None).

    `ready_ns` is when it took requests first; None while it is starting. Times are in ns.
    """

    instance_id: InstanceId
    ordered_ns: int = 0
    ready_ns: int | None = 0
    returned_ns: int | None = None

    def held_ns(self, end_ns: int) -> int:
        """Say for how long it was held, until some moment."""
        until_ns = end_ns if self.returned_ns is None else min(self.returned_ns, end_ns)
        return max(0, until_ns - self.ordered_ns)


def held_ns(machines: Sequence[Machine], end_ns: int) -> int:
    """Sum up for how long machines were held, until some moment."""
    return sum(machine.held_ns(end_ns) for machine in machines)
