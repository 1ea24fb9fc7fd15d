"""How many instances a fleet should have: one more, one fewer, or the same number.

The signal is the mean freeness of the instances that accept requests, in decode steps (as in the
paper), which is kept between a low and a high threshold. It must be outside for a whole window
before anything is decided, and a cooldown follows each decision.

The mean alone would flap: a machine that has just come is idle, and its many free steps lift the
mean far above the high threshold. So the policy also computes the freeness of the same load spread
evenly (`spread_freeness`), wherever it is at present: a machine is ordered only while an even
spread, over those still starting too, is below the high threshold, and one is released only if the
spread without it is still above. At a constant load neither decision allows its reverse.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from policies.types import BoolColumn, FleetSnapshot, FloatColumn, InstanceId, IntColumn
from policies.usage import batch_size, freeness, virtual_usage


@dataclass(frozen=True, slots=True)
class ScalingConfig:
    """When to add and remove instances: never while `max_instances` is unset.

    Raises ValueError if the bounds or thresholds are reversed, or a time is negative.
    """

    max_instances: int | None = field(
        default=None,
        metadata={
            "help": "largest fleet, counting instances that are starting or draining",
            "unit": "instances",
            "default": "the fleet keeps its size",
        },
    )
    min_instances: int = field(
        default=1, metadata={"help": "smallest fleet, however idle", "unit": "instances"}
    )
    low_steps: float = field(
        default=64.0,
        metadata={
            "help": "mean freeness below which an instance is added",
            "unit": "decode steps",
        },
    )
    high_steps: float = field(
        default=256.0,
        metadata={
            "help": "mean freeness above which an instance is removed if it stays above without it",
            "unit": "decode steps",
        },
    )
    window_s: float = field(
        default=10.0,
        metadata={
            "help": "how long the mean must stay beyond a threshold before the fleet changes",
            "unit": "s",
        },
    )
    cooldown_s: float = field(
        default=10.0, metadata={"help": "shortest time between two changes", "unit": "s"}
    )

    def __post_init__(self) -> None:
        if self.min_instances < 1:
            raise ValueError(f"min_instances must be at least 1, not {self.min_instances}")
        if self.max_instances is not None and self.max_instances < self.min_instances:
            raise ValueError(
                f"max_instances ({self.max_instances}) must not be less than min_instances "
                f"({self.min_instances})"
            )
        if not self.low_steps < self.high_steps:
            raise ValueError(
                f"low_steps ({self.low_steps:g}) must be less than high_steps "
                f"({self.high_steps:g}), or there is no right size"
            )
        for name in ("window_s", "cooldown_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")

    @property
    def on(self) -> bool:
        """Whether the fleet's size may change at all."""
        return self.max_instances is not None and self.max_instances > self.min_instances


@dataclass(frozen=True, slots=True)
class ScalingView:
    """All the scaling policy may read.

    The snapshot's in-flight columns are filled in. `starting` counts machines ordered that accept
    no requests yet; `held_requests` and `held_tokens` what the frontend holds back, which no
    instance has received.
    """

    snapshot: FleetSnapshot
    headroom_tokens: IntColumn
    starting: int = 0
    held_requests: int = 0
    held_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """What one round keeps for the next: since when the fleet is too small or too large."""

    small_since_s: float | None = None
    large_since_s: float | None = None
    decided_at_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class ScaleOut:
    """Order one more machine."""


@dataclass(frozen=True, slots=True)
class ScaleIn:
    """Drain this instance, and give its machine back."""

    instance_id: InstanceId


ScalingDecision = ScaleOut | ScaleIn


def decide(
    view: ScalingView, memory: ScalingMemory, config: ScalingConfig, now_s: float
) -> tuple[ScalingDecision | None, ScalingMemory]:
    """Return what to change now, if anything, and what to remember; `now_s` never decreases.

    A fleet below its minimum is refilled at once, without window or cooldown: instances are missing
    because they died.
    """
    machines = len(view.snapshot.ids) + view.starting
    free_to_add = config.max_instances is not None and machines < config.max_instances
    if _taking(view).sum() + view.starting < config.min_instances:
        return (ScaleOut() if free_to_add else None), memory
    small, large = too_small(view, config), too_large(view, config)
    memory = ScalingMemory(
        _since(memory.small_since_s, small, now_s),
        _since(memory.large_since_s, large, now_s),
        memory.decided_at_s,
    )
    if now_s - memory.decided_at_s < config.cooldown_s:
        return None, memory
    if free_to_add and _lasted(memory.small_since_s, config, now_s):
        return ScaleOut(), ScalingMemory(decided_at_s=now_s)
    if _lasted(memory.large_since_s, config, now_s):
        cheapest = ScaleIn(view.snapshot.ids[cheapest_to_drain(view)])
        return cheapest, ScalingMemory(decided_at_s=now_s)
    return None, memory


def too_small(view: ScalingView, config: ScalingConfig) -> bool:
    """Whether one more machine is needed: little is free, however the load is spread."""
    if spread_freeness(view, _taking(view), view.starting) >= config.high_steps:
        return False
    return mean_freeness(view) < config.low_steps


def too_large(view: ScalingView, config: ScalingConfig) -> bool:
    """Whether one machine fewer would do; not while any is starting."""
    taking = _taking(view)
    if view.starting or taking.sum() <= config.min_instances:
        return False
    taking[cheapest_to_drain(view)] = False
    if spread_freeness(view, taking, 0) < config.high_steps:
        return False
    return mean_freeness(view) > config.high_steps


def mean_freeness(view: ScalingView) -> float:
    """Average the freeness of the instances that accept requests, in decode steps.

    All waiting requests count; those the frontend holds are shared out among the instances.
    """
    taking = _taking(view)
    free: FloatColumn = freeness(_with_held(view, taking), view.headroom_tokens, "whole")
    return float(free[taking].mean()) if taking.any() else float("-inf")


def spread_freeness(view: ScalingView, staying: BoolColumn, more: int) -> float:
    """Return each instance's freeness if the whole load were spread evenly.

    Over the instances `staying`, and `more` idle ones of the fleet's mean size; the load of those
    that do not stay counts as well. Infinite where there is no instance to tell a size by.
    """
    if not len(staying):
        return float("inf")
    fleet = replace(view.snapshot, terminating=np.zeros_like(view.snapshot.terminating))
    used = virtual_usage(fleet, view.headroom_tokens, "whole").sum() + view.held_tokens
    size = fleet.capacity_tokens[staying].sum() + more * fleet.capacity_tokens.mean()
    requests = batch_size(fleet, "whole").sum() + view.held_requests
    return float((size - used) / max(1, requests))


def cheapest_to_drain(view: ScalingView) -> int:
    """Choose, of the instances that accept requests, the row with the fewest tokens to move.

    Ties go to the one with the fewest requests, queued ones included; then to the newest.
    """
    fleet = view.snapshot
    requests = batch_size(fleet, "whole")
    rows = np.flatnonzero(_taking(view))
    return int(min(rows, key=lambda row: (fleet.physical_tokens[row], requests[row], -row)))


def _taking(view: ScalingView) -> BoolColumn:
    return ~view.snapshot.terminating


def _with_held(view: ScalingView, taking: BoolColumn) -> FleetSnapshot:
    """Share out what the frontend holds as if it were in flight; the first get the remainder."""
    fleet, count = view.snapshot, max(1, int(taking.sum()))
    place = np.cumsum(taking) - 1

    def shared(total: int) -> IntColumn:
        part: IntColumn = np.where(taking, total // count + (place < total % count), 0)
        return part

    return replace(
        fleet,
        in_flight_tokens=fleet.in_flight_tokens + shared(view.held_tokens),
        in_flight_requests=fleet.in_flight_requests + shared(view.held_requests),
    )


def _since(before_s: float | None, holds: bool, now_s: float) -> float | None:
    """Return the time since which a condition holds; None when it does not."""
    if not holds:
        return None
    return now_s if before_s is None else before_s


def _lasted(since_s: float | None, config: ScalingConfig, now_s: float) -> bool:
    return since_s is not None and now_s - since_s >= config.window_s
