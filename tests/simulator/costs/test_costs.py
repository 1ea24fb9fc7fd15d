"""The cost model gives the figures its presets are made from, in whole nanoseconds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.model import CostModel, LinearCosts
from simulator.costs.presets import PRESETS, preset

A10 = preset("llama-7b-a10")
TOLERANCE = 0.03


@pytest.mark.parametrize(
    ("tokens", "milliseconds"),
    [(256, 58), (512, 110), (1024, 220), (2048, 436), (4096, 940), (8192, 1995)],
)
def test_a10_prefill_is_the_papers_recompute_curve(tokens: int, milliseconds: float) -> None:
    """A whole prompt in one step costs what the paper measured, within 3 %."""
    cost_ms = A10.costs.step_ns([(0, tokens)], 0, 0) / 1e6
    assert cost_ms == pytest.approx(milliseconds, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("batch", "milliseconds"),
    [(32, 52.0), (16, 47.0), (8, 44.3), (4, 43.6), (2, 43.3), (1, 43.5)],
)
def test_a10_decode_is_the_papers_at_8k_tokens(batch: int, milliseconds: float) -> None:
    """A decode step with 8k tokens of context in all costs what the paper measured, within 3 %."""
    cost_ms = A10.costs.step_ns([], batch, 8192) / 1e6
    assert cost_ms == pytest.approx(milliseconds, rel=TOLERANCE)


def test_a10_memory_and_link_are_the_papers() -> None:
    """Capacity, block and KV sizes are LLaMA-7B's in fp16 on an A10; the link is 64 Gb/s."""
    assert (A10.capacity_tokens, A10.block_tokens) == (13_616, 16)
    assert A10.kv_bytes_per_token == 2 * 32 * 4096 * 2
    assert A10.link_bytes_per_s == 64e9 / 8


COSTS = LinearCosts(
    prefill_base_ns=100,
    prefill_per_token_ns=10,
    prefill_quadratic_ps=2_000,
    decode_base_ns=500,
    decode_per_context_ns=3,
    decode_per_sequence_ns=7,
)


@pytest.mark.parametrize(
    ("chunks", "batch", "context", "expected"),
    [
        ([], 1, 10, 500 + 30 + 7),
        ([], 4, 100, 500 + 300 + 28),
        ([(0, 1)], 0, 0, 500),
        ([(0, 100)], 0, 0, 100 + 1_000 + 2 * 100**2),
        ([(100, 50)], 0, 0, 100 + 500 + 2 * (150**2 - 100**2)),
        ([(0, 100)], 4, 100, 100 + 1_000 + 2 * 100**2 + 300 + 28),
        ([(0, 10), (5, 10)], 0, 0, 100 + 200 + 2 * 100 + 2 * (15**2 - 5**2)),
    ],
)
def test_terms_add_up(
    chunks: list[tuple[int, int]], batch: int, context: int, expected: int
) -> None:
    """The base is the larger of decode's and prefill's; what decodes cost comes on top."""
    assert COSTS.step_ns(chunks, batch, context) == expected


def test_chunking_adds_only_bases() -> None:
    """Where prefill dominates, a prompt in chunks costs one more prefill base a chunk."""
    whole = COSTS.step_ns([(0, 1024)], 0, 0)
    parts = sum(COSTS.step_ns([(start, 256)], 0, 0) for start in range(0, 1024, 256))
    assert parts == whole + 3 * COSTS.prefill_base_ns


def test_overhead_comes_on_top_of_every_step() -> None:
    """A step of any kind takes the CPU's time longer; the base of decodes stays."""
    slower = replace(COSTS, overhead_ns=11)
    for step in (([], 1, 10), ([(0, 100)], 0, 0), ([(0, 100)], 4, 100)):
        assert slower.step_ns(*step) == COSTS.step_ns(*step) + 11
    assert slower.decode_base_ns == COSTS.decode_base_ns


def test_decodes_beside_prompts_may_cost_more() -> None:
    """Only in a step with prompts, and only where these decide how long it takes."""
    dearer = replace(COSTS, prefill_per_sequence_ns=5)
    assert dearer.step_ns([], 4, 100) == COSTS.step_ns([], 4, 100)
    assert dearer.step_ns([(0, 1)], 4, 100) == COSTS.step_ns([(0, 1)], 4, 100)
    assert dearer.step_ns([(0, 100)], 4, 100) == COSTS.step_ns([(0, 100)], 4, 100) + 4 * 5


def test_a_negative_term_is_refused() -> None:
    """A step can never become cheaper by more work."""
    with pytest.raises(ValueError, match="decode_per_context_ns must not be negative, not -1"):
        replace(COSTS, decode_per_context_ns=-1)


@given(
    chunks=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 500)), max_size=3),
    batch=st.integers(0, 128),
    context=st.integers(0, 100_000),
    more=st.integers(0, 50),
)
@pytest.mark.parametrize("costs", [A10.costs, preset("toy").costs, COSTS])
def test_more_work_never_costs_less(
    costs: CostModel, chunks: list[tuple[int, int]], batch: int, context: int, more: int
) -> None:
    """A step's cost does not fall in its batch, contexts or prompts."""
    cost_ns = costs.step_ns(chunks, batch, context)
    assert costs.step_ns(chunks, batch + more, context) >= cost_ns
    assert costs.step_ns(chunks, batch, context + more) >= cost_ns
    assert costs.step_ns([*chunks, (0, more)], batch, context) >= cost_ns


@pytest.mark.parametrize(("name", "cost_ns"), [("llama-7b-a10", 93_771_122), ("toy", 4_831_741)])
def test_presets_stay_what_they_were(name: str, cost_ns: int) -> None:
    """To the nanosecond: results simulated earlier can be had again."""
    assert preset(name).costs.step_ns([(100, 333), (0, 77)], 9, 1234) == cost_ns


def test_an_unknown_preset_lists_the_choices() -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(ValueError, match="llama-7b-a10, toy"):
        preset("a100")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_run(name: str) -> None:
    """A preset fits a request of its own largest length, and says where it is from."""
    known = PRESETS[name]
    assert known.name == name
    assert known.source
    assert 0 < known.max_model_len <= known.capacity_tokens
    assert known.capacity_tokens % known.block_tokens == 0
