"""The growth of costs with the fleet, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler_parts.decisions import Decisions
from scheduler_parts.full import Full


@dataclass(frozen=True, slots=True)
class Size:
    """What was measured at one size of fleet."""

    instances: int
    decisions: Decisions
    full: Full


def draw(sizes: Sequence[Size], path: Path) -> None:
    """Write the plot as SVG or PNG, by its name. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    instances = [each.instances for each in sizes]
    for label, values in (
        ("dispatch p99, ms", [each.full.dispatch.p99_us / 1e3 for each in sizes]),
        ("rebalance pass p99, ms", [each.decisions.rebalance.p99_us / 1e3 for each in sizes]),
    ):
        left.plot(instances, values, marker="o", label=label)
    right.plot(
        instances, [each.full.cores for each in sizes], marker="o", label="cores, fleet full"
    )
    right.plot(
        instances, [each / 1000 for each in instances], ":", label="0.1 core per 100 instances"
    )
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("instances")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.savefig(path)
