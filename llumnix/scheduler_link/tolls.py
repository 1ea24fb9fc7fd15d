"""Limits of keys as they travel on the link: what is asked, and what is answered."""

from collections.abc import Mapping, Sequence
from typing import Any

from llumnix.frontend.access.limits import Allowance, Dimension, Exceeded, Left, Limits


def limits_plain(limits: Limits) -> list[int | None]:
    """Encode limits."""
    return [limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent_requests]


def limits_of(told: Sequence[int | None]) -> Limits:
    """Decode limits."""
    return Limits(*told)


def answer_plain(exceeded: Exceeded | None, allowance: Allowance, now_s: float) -> dict[str, Any]:
    """Encode what a key may do, and what is left of its limits."""
    left = allowance.left(now_s).items()
    return {
        "exceeded": exceeded and [str(exceeded.dimension), exceeded.limit, exceeded.wait_s],
        "left": [[str(name), each.limit, each.remaining, each.reset_s] for name, each in left],
    }


def exceeded_of(told: Mapping[str, Any]) -> Exceeded | None:
    """Decode the limit that stands against a request."""
    if told["exceeded"] is None:
        return None
    dimension, limit, wait_s = told["exceeded"]
    return Exceeded(Dimension(dimension), limit, wait_s)


def left_of(told: Mapping[str, Any]) -> dict[Dimension, Left]:
    """Decode what is left of the limits."""
    return {Dimension(name): Left(*rest) for name, *rest in told["left"]}
