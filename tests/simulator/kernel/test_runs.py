"""Runs of equal steps: their closed forms say what adding the steps up says."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.gpus import gpu_named
from simulator.costs.model import CostModel, LinearCosts
from simulator.costs.model_shape import read_shape
from simulator.costs.roofline import roofline
from simulator.costs.roofline_options import RooflineOptions
from simulator.costs.table import Curve, TableCosts
from simulator.engine.roster import EngineLimits
from simulator.kernel.engine import runs
from simulator.kernel.engine.bounds import least_step_ns, longest_step_ns

LLAMA_8B: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "torch_dtype": "bfloat16",
    "architectures": ["LlamaForCausalLM"],
}


TABLE = TableCosts(
    batch_sizes=(1, 4, 16),
    decode=(
        Curve((100, 700, 2_000), (1_010_003, 1_050_011, 1_190_001)),
        Curve((400, 2_900), (1_040_007, 1_310_001)),
        Curve((300, 1_600, 6_000), (1_100_009, 1_200_001, 1_700_017)),
    ),
    prefill=Curve((0, 60, 300, 1_200), (410_007, 1_100_001, 3_500_003, 16_000_029)),
    overhead_ns=77,
)
"""As large as the costs of the preset `toy`, so that both can serve the same workloads."""
FALLING = TableCosts((2,), (Curve((10, 500, 90_000), (9_000, 7_001, 95_003)),), Curve((5,), (30,)))


def models() -> list[CostModel]:
    shape, few_parts, many_parts = read_shape(LLAMA_8B), 0.37, 0.123_456
    rooflines = [
        roofline(shape, gpu_named("H100"), 1, RooflineOptions(overlap=overlap, overhead_ns=700))
        for overlap in ("operator", "full", "none", 0.5, few_parts, many_parts)
    ]
    linear = LinearCosts(5_000_000, 205_000, 4_600, 34_000_000, 1_100, 280_000, 77, 9_000)
    return [linear, TABLE, FALLING, *rooflines]


def drawn_run(costs: CostModel, row: list[int], draws: random.Random) -> tuple[int, int, int]:
    """Draw a batch, its contexts, and steps that lie on one line; short runs have short contexts.

    Half the batches are of a size that a table has measured.
    """
    batch, contexts = draws.randint(1, 128), draws.randrange(draws.choice([3_000, 300_000]))
    if isinstance(costs, TableCosts) and draws.random() < 0.5:
        batch = draws.choice(costs.batch_sizes)
    return batch, contexts, runs.straight_steps(row, batch, contexts, draws.randint(1, 400))


@pytest.mark.parametrize("costs", models())
def test_a_step_costs_what_its_model_says(costs: CostModel) -> None:
    row = runs.cost_columns(costs)
    draws = random.Random(1)
    for _ in range(200):
        chunks = [
            (draws.randrange(5_000), draws.randint(1, 512)) for _ in range(draws.randrange(4))
        ]
        batch, contexts = draws.randrange(1, 200), draws.randrange(400_000)
        tokens = sum(count for _, count in chunks)
        squares = sum(runs.chunk_sum(row, start, start + count) for start, count in chunks)
        ends = sum(start + count for start, count in chunks)
        said = runs.step_ns(row, tokens, squares, ends, len(chunks), batch, contexts)
        assert said == costs.step_ns(chunks, batch, contexts)


@pytest.mark.parametrize("costs", models())
def test_no_step_is_shorter_than_the_least(costs: CostModel) -> None:
    least_ns, draws = least_step_ns(costs), random.Random(4)
    for _ in range(300):
        chunks = [(draws.randrange(1_500), 1) for _ in range(draws.randrange(3))]
        decodes = [(1, draws.randrange(3_000)), (draws.randrange(1, 20), draws.randrange(3_000))]
        batch, contexts = draws.choice([(0, 0), *decodes] if chunks else decodes)
        assert costs.step_ns(chunks, batch, contexts) >= least_ns


@pytest.mark.parametrize("costs", models())
def test_no_step_is_longer_than_the_longest(costs: CostModel) -> None:
    """Even those that compute the ends of long prompts, or many short ones, beside a full batch."""
    limits, draws = EngineLimits(6_400, 16, max_num_seqs=24, token_budget=96), random.Random(5)
    longest_ns = longest_step_ns(costs, limits)
    for _ in range(300):
        parts, batch = draws.choice([1, 4, 24]), draws.choice([0, 1, 24])
        count = limits.token_budget // parts
        chunks = [(draws.choice([0, 6_400 - count]), count) for _ in range(parts)]
        assert costs.step_ns(chunks, batch, draws.randrange(6_401) if batch else 0) <= longest_ns


@pytest.mark.parametrize("costs", models())
def test_a_run_costs_what_its_steps_cost_together(costs: CostModel) -> None:
    row = runs.cost_columns(costs)
    draws = random.Random(2)
    for _ in range(60):
        batch, contexts, steps = drawn_run(costs, row, draws)
        if steps == 1:
            continue  # no run
        line = runs.line_at(row, batch, contexts)
        each = [costs.step_ns((), batch, contexts + batch * step) for step in range(steps)]
        assert runs.run_ns(*line, batch, contexts, steps) == sum(each)


@pytest.mark.parametrize("costs", models())
def test_the_steps_within_a_time_are_those_that_end_by_then(costs: CostModel) -> None:
    row = runs.cost_columns(costs)
    draws = random.Random(3)
    for _ in range(60):
        batch, contexts, steps = drawn_run(costs, row, draws)
        if steps == 1:
            continue  # no run
        line = runs.line_at(row, batch, contexts)
        ends = [runs.run_ns(*line, batch, contexts, done) for done in range(1, steps + 1)]
        for elapsed_ns in (
            0,
            ends[0] - 1,
            ends[-1],
            draws.choice(ends),
            draws.randint(0, ends[-1]),
        ):
            by_then = sum(end_ns <= elapsed_ns for end_ns in ends)
            assert runs.steps_within(*line, batch, contexts, steps, elapsed_ns) == by_then


def test_a_run_goes_on_to_the_next_point_of_a_table() -> None:
    """A batch that was measured has a line between two points; one in between has none."""
    row = runs.cost_columns(TABLE)
    assert runs.straight_steps(row, 16, 1_600 - 16 * 30 - 1, 1_000) == 31
    assert runs.straight_steps(row, 16, 6_000, 1_000) == 1_000
    assert runs.straight_steps(row, 15, 6_000, 1_000) == 1
    assert runs.straight_steps(runs.cost_columns(FALLING), 9, 10, 1_000) == 1


def test_a_mixture_of_few_parts_has_a_line() -> None:
    shape, gpu = read_shape(LLAMA_8B), gpu_named("H100")
    few, many = (
        runs.cost_columns(roofline(shape, gpu, 1, RooflineOptions(overlap=overlap)))
        for overlap in (0.37, 0.123_456)
    )
    assert runs.straight_steps(few, 8, 8_000, 100) == 100
    assert runs.straight_steps(many, 8, 8_000, 100) == 1


@given(st.integers(0, 300), st.integers(1, 10**6), st.integers(0, 10**7), st.integers(0, 10**12))
def test_a_sum_of_floors_is_what_adding_them_says(n: int, m: int, a: int, b: int) -> None:
    assert runs.floor_sum(n, m, a, b) == sum((a * j + b) // m for j in range(n))
