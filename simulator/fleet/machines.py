"""Machines that instances run on, and for how long they are paid for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from policies.types import InstanceId


@dataclass(slots=True)
class Machine:
    """What an instance runs on: held from its order on, until it is returned (never, if None).

    `ready_ns` is when it first accepted requests; None while it is starting. Times are in ns.
    """

    instance_id: InstanceId
    ordered_ns: int = 0
    ready_ns: int | None = 0
    returned_ns: int | None = None

    def held_ns(self, end_ns: int) -> int:
        """Return for how long it was held, up to a given time."""
        until_ns = end_ns if self.returned_ns is None else min(self.returned_ns, end_ns)
        return max(0, until_ns - self.ordered_ns)


@dataclass(frozen=True, slots=True)
class Size:
    """A fleet's size from a given time on: machines held, and those of them that have started."""

    at_ns: int
    held: int
    started: int


def sizes(machines: Sequence[Machine], end_ns: int) -> list[Size]:
    """List the sizes a fleet had, one per change, up to a given time."""
    steps: Counter[int] = Counter()
    starts: Counter[int] = Counter()
    for machine in machines:
        steps[machine.ordered_ns] += 1
        if machine.ready_ns is not None:
            starts[machine.ready_ns] += 1
        if machine.returned_ns is not None:
            steps[machine.returned_ns] -= 1
            starts[machine.returned_ns] -= 1
    found: list[Size] = []
    held = started = 0
    for at_ns in sorted(steps.keys() | starts.keys()):
        if at_ns > end_ns:
            break
        held, started = held + steps[at_ns], started + starts[at_ns]
        found.append(Size(at_ns, held, started))
    return found


def held_ns(machines: Sequence[Machine], end_ns: int) -> int:
    """Sum up for how long machines were held, up to a given time."""
    return sum(machine.held_ns(end_ns) for machine in machines)
