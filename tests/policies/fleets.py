"""Fleets for tests: short ways to write loads, snapshots and schedulers, and to draw them."""

from collections.abc import Mapping, Sequence

from hypothesis import settings
from hypothesis import strategies as st

from policies.moves.config import RebalanceConfig
from policies.registry import PolicySpec
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import (
    Dispatch,
    DispatchDecision,
    DispatchRequest,
    FleetSnapshot,
    InstanceId,
    InstanceLoad,
    PriorityClass,
    RequestId,
)

# The machine that runs the tests is shared: examples are counted, never timed.
law = settings(deadline=None, max_examples=150)

HIGH, NORMAL = 0, 1
PLAIN_CLASSES = (PriorityClass("high"), PriorityClass("normal"))
# The paper's, on engines of 13,616 tokens.
PAPER_CLASSES = (PriorityClass("high", headroom_tokens=12_016), PriorityClass("normal"))


def load(
    name: str,
    used: int = 0,
    running: int = 0,
    *,
    capacity: int = 10_000,
    high: int = 0,
    waiting: int = 0,
    queued: int = 0,
    head: int | None = None,
    reserved: int = 0,
    terminating: bool = False,
    reported_at_s: float = 0.0,
) -> InstanceLoad:
    """Write a load: `used` tokens held by `running` normal and `high` high requests."""
    return InstanceLoad(
        instance_id=InstanceId(name),
        capacity_tokens=capacity,
        physical_tokens=used,
        head_demand_tokens=queued if head is None else head,
        queued_demand_tokens=queued,
        running=(high, running),
        waiting=(0, waiting),
        reserved_tokens=reserved,
        terminating=terminating,
        reported_at_s=reported_at_s,
    )


def fleet(*loads: InstanceLoad, now_s: float = 0.0) -> FleetSnapshot:
    """Take a snapshot of these loads."""
    return FleetSnapshot.of(loads, now_s, classes=2)


def scheduler(
    policy: str = "freeness",
    params: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    classes: tuple[PriorityClass, ...] = PLAIN_CLASSES,
    migration: bool = True,
    rebalance: RebalanceConfig | None = None,
) -> GlobalScheduler:
    """Build a scheduler whose classes have no headroom unless told otherwise."""
    return GlobalScheduler(
        SchedulerConfig(
            classes=classes,
            dispatch=PolicySpec(policy, params or {}),
            migration=migration,
            rebalance=rebalance or RebalanceConfig(),
        ),
        seed=seed,
    )


def request(name: str = "r", tokens: int = 100, class_index: int = NORMAL) -> DispatchRequest:
    """Write a request to dispatch."""
    return DispatchRequest(RequestId(name), class_index, tokens, arrived_at_s=0.0)


def chosen(decision: DispatchDecision) -> str:
    """Name the instance of a decision that must be a Dispatch."""
    assert isinstance(decision, Dispatch), decision
    return decision.instance_id


def dispatch_all(
    brain: GlobalScheduler, snapshot: FleetSnapshot, n: int, tokens: int = 100
) -> list[str]:
    """Dispatch n equal requests on one and the same, ever staler, snapshot."""
    return [chosen(brain.dispatch(request(f"r{i}", tokens), snapshot, 0.0)) for i in range(n)]


def spread(names: Sequence[str], instances: Sequence[str]) -> int:
    """Say by how many requests the most and the least chosen instance differ."""
    counts = [names.count(instance) for instance in instances]
    return max(counts) - min(counts)


@st.composite
def loads(draw: st.DrawFn, name: str = "i") -> InstanceLoad:
    """Draw the load of one instance, over-committed and terminating ones included."""
    running = draw(st.integers(0, 20))
    waiting = draw(st.integers(0, 5))
    head = draw(st.integers(1, 3_000)) if waiting else 0
    return load(
        name,
        used=draw(st.integers(running, 10_000)) if running else 0,
        running=running,
        high=draw(st.integers(0, 2)),
        capacity=draw(st.sampled_from([5_000, 10_000, 20_000])),
        waiting=waiting,
        head=head,
        queued=head + (draw(st.integers(0, 5_000)) if waiting > 1 else 0),
        reserved=draw(st.integers(0, 1_000)),
        terminating=draw(st.booleans()),
    )


@st.composite
def load_lists(draw: st.DrawFn, min_size: int = 1) -> list[InstanceLoad]:
    """Draw the loads of a whole fleet."""
    n = draw(st.integers(min_size, 6))
    return [draw(loads(f"i{row}")) for row in range(n)]
