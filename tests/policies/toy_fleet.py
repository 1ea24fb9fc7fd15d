"""A fleet of frozen requests that carries out orders at once, to see where rebalancing leads."""

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import strategies as st

from policies.moves.config import RebalanceConfig
from policies.moves.drain import propose_drains
from policies.moves.rebalance import find_sources, propose_relief
from policies.moves.victims import choose_victim
from policies.moves.view import MovesView
from policies.types import (
    FleetSnapshot,
    InstanceId,
    InstanceLoad,
    IntColumn,
    MigrateOrder,
    RequestId,
    RequestPhase,
    RequestView,
)

CAPACITY = 10_000


@dataclass
class ToyInstance:
    """Requests as (context tokens, class index), and the demand of a queue that never starts."""

    requests: list[tuple[int, int]]
    head_demand_tokens: int = 0
    terminating: bool = False

    def load(self, name: str) -> InstanceLoad:
        return InstanceLoad(
            instance_id=InstanceId(name),
            capacity_tokens=CAPACITY,
            physical_tokens=sum(context for context, _ in self.requests),
            head_demand_tokens=self.head_demand_tokens,
            queued_demand_tokens=self.head_demand_tokens,
            running=tuple(sum(c == kind for _, c in self.requests) for kind in (0, 1)),
            waiting=(0, int(self.head_demand_tokens > 0)),
            terminating=self.terminating,
        )


@dataclass
class ToyFleet:
    """Instances by name, rebalanced round after round. `sources` is what hysteresis remembers."""

    instances: dict[InstanceId, ToyInstance]
    headroom: tuple[int, int] = (0, 0)
    config: RebalanceConfig = field(default_factory=RebalanceConfig)
    sources: frozenset[InstanceId] = frozenset()

    def snapshot(self) -> FleetSnapshot:
        return FleetSnapshot.of([one.load(name) for name, one in self.instances.items()], 0.0, 2)

    def headroom_column(self) -> IntColumn:
        return np.array(self.headroom)

    def plan(self) -> list[MigrateOrder]:
        """Propose one round of orders, with all slots open."""
        snapshot = self.snapshot()
        caps = np.full(len(snapshot.ids), 2)
        view = MovesView(snapshot, self.headroom_column(), self.sources, caps, caps, 8, self.config)
        self.sources = find_sources(view)
        return propose(replace(view, sources=self.sources))

    def carry_out(self, order: MigrateOrder) -> tuple[int, int] | None:
        """Move the victim a llumlet would choose; None when there is none within the bound."""
        source = self.instances[order.source].requests
        views = [
            RequestView(RequestId(str(row)), class_index, RequestPhase.RUNNING, context, row)
            for row, (context, class_index) in enumerate(source)
        ]
        victim = choose_victim(views, order.max_context_tokens, 0.0, 0.0)
        if victim is None:
            return None
        moved = source.pop(int(victim))
        self.instances[order.destination].requests.append(moved)
        return moved


def propose(view: MovesView) -> list[MigrateOrder]:
    """Propose drains, then relief beside them."""
    drains = propose_drains(view)
    return [*drains, *propose_relief(view.after(drains))]


def toy_fleets(*, terminating: bool = False, headroom: int = 0) -> st.SearchStrategy[ToyFleet]:
    """Draw fleets that fit their memory; with `terminating`, the first instance is leaving."""
    contexts = st.integers(20, 2_500)
    requests = st.lists(st.tuples(contexts, st.sampled_from([0, 1, 1, 1])), max_size=25).map(_fit)
    instances = st.builds(ToyInstance, requests, st.sampled_from([0, 0, 0, 1_500, 6_000]))

    def build(drawn: list[ToyInstance]) -> ToyFleet:
        drawn[0].terminating = terminating
        named = {InstanceId(f"i{row}"): one for row, one in enumerate(drawn)}
        return ToyFleet(named, headroom=(headroom, 0))

    return st.lists(instances, min_size=2, max_size=5).map(build)


def _fit(requests: list[tuple[int, int]]) -> list[tuple[int, int]]:
    kept: list[tuple[int, int]] = []
    for request in requests:
        if sum(context for context, _ in kept) + request[0] <= CAPACITY:
            kept.append(request)
    return kept
