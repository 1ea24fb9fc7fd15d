"""The cost model gives the figures its presets are made from, in whole nanoseconds."""

import pytest

from simulator.costs import PRESETS, CostModel, preset

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


COSTS = CostModel(
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
