"""Where to send a request: the dispatch policies.

A policy scores instances; filtering, tie-breaking and holding back are done once, by the scheduler.
To add a policy, write a function like these and register it: policies/README.md.
"""

from dataclasses import dataclass, field

import numpy as np

from policies import columns
from policies.chance import chance
from policies.registry import NoParams, Registry
from policies.types import FleetSnapshot, FloatColumn
from policies.usage import batch_size, freeness, startable_tokens
from policies.view import DispatchView, Proposal

dispatch_policies: Registry[DispatchView, Proposal] = Registry("dispatch policy")


@dataclass(frozen=True, slots=True)
class FreenessParams:
    """Parameters of `freeness`."""

    late_binding: bool = field(
        default=True,
        metadata={
            "help": "queue a request at the frontend until an instance can start it",
            "unit": "",
        },
    )
    growth_steps: float = field(
        default=32.0,
        metadata={
            "help": "with late binding: room to grow kept per running request before another joins",
            "unit": "decode steps",
        },
    )


@dispatch_policies.register("freeness", FreenessParams)
def by_freeness(view: DispatchView, params: FreenessParams) -> Proposal:
    """Send to the instance that can keep decoding longest (the paper's policy)."""
    scores = freeness(view.snapshot, view.headroom_tokens, "whole")
    if not params.late_binding:
        return Proposal(scores)
    batch = batch_size(view.snapshot, "whole")
    startable = startable_tokens(view.snapshot)
    ready = columns.has_room(startable, batch, params.growth_steps, view.request.prompt_tokens)
    return Proposal(scores, ready)


@dispatch_policies.register("load-aware", NoParams)
def by_load(view: DispatchView, _: NoParams) -> Proposal:
    """Send to the instance with the least memory used or requested (INFaaS++)."""
    fleet = view.snapshot
    return Proposal(columns.free_share(startable_tokens(fleet), fleet.capacity_tokens))


@dispatch_policies.register("least-requests", NoParams)
def by_requests(view: DispatchView, _: NoParams) -> Proposal:
    """Send to the instance with the fewest requests running, waiting or on their way."""
    return Proposal(-request_counts(view.snapshot))


@dispatch_policies.register("round-robin", NoParams)
def in_turn(view: DispatchView, _: NoParams) -> Proposal:
    """Send to each instance in turn."""
    return Proposal(only(view, [view.turn % len(view.candidates)]))


@dispatch_policies.register("random", NoParams)
def by_chance(view: DispatchView, _: NoParams) -> Proposal:
    """Send to a random instance (the same draws for the same seed)."""
    return Proposal(only(view, [chance(view.seed, view.turn, len(view.candidates))]))


@dispatch_policies.register("power-of-two", NoParams)
def better_of_two(view: DispatchView, _: NoParams) -> Proposal:
    """Draw two random instances and send to the one with fewer requests."""
    n = len(view.candidates)
    first = chance(view.seed, 2 * view.turn, n)
    # The second is drawn from the others, so that two different instances are compared.
    second = (first + 1 + chance(view.seed, 2 * view.turn + 1, n - 1)) % n if n > 1 else first
    return Proposal(only(view, [first, second]) - request_counts(view.snapshot))


def request_counts(snapshot: FleetSnapshot) -> FloatColumn:
    """Count the requests each instance runs, has waiting, or was sent and has not yet reported."""
    return batch_size(snapshot, "whole").astype(np.float64)


def only(view: DispatchView, choices: list[int]) -> FloatColumn:
    """Score 0 for the chosen candidate (by position), minus infinity for all others."""
    scores = np.full(len(view.snapshot.ids), -np.inf)
    scores[view.candidates[choices]] = 0.0
    return scores
