"""Laws of the fluid bound."""

import pytest

from simulator.costs.capacity import fluid_rate_per_s
from simulator.costs.presets import preset
from simulator.workload.request import TraceRequest

A10 = preset("llama-7b-a10")


def requests(prompt_tokens: int, output_tokens: int, n: int = 10) -> list[TraceRequest]:
    return [TraceRequest(i, float(i), prompt_tokens, output_tokens) for i in range(n)]


def bound(prompt_tokens: int, output_tokens: int, instances: int = 1) -> float:
    return fluid_rate_per_s(
        requests(prompt_tokens, output_tokens), A10.costs, A10.capacity_tokens, instances
    )


def test_bound_is_proportional_to_instances() -> None:
    assert bound(1000, 200, 4) == pytest.approx(4 * bound(1000, 200))


def test_longer_requests_lower_the_bound() -> None:
    assert bound(2000, 200) < bound(1000, 200)
    assert bound(1000, 400) < bound(1000, 200)


def test_bound_of_prompts_alone_is_the_prefill_rate() -> None:
    """One output token: nearly all the time is prefill."""
    prefill_s = A10.costs.step_ns([(0, 8192)], 0, 0) * 1e-9

    assert bound(8192, 1) == pytest.approx(1 / prefill_s, rel=0.05)


def test_no_requests_have_no_bound() -> None:
    with pytest.raises(ValueError, match="no requests"):
        fluid_rate_per_s([], A10.costs, A10.capacity_tokens, 1)
