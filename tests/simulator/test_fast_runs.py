"""Runs of equal steps: their closed forms say what adding the steps up says."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost_model import CostModel, LinearCosts
from simulator.fast import runs
from simulator.gpus import gpu_named
from simulator.model_shape import read_shape
from simulator.roofline import roofline
from simulator.roofline_options import RooflineOptions

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


def models() -> list[CostModel]:
    shape = read_shape(LLAMA_8B)
    rooflines = [
        roofline(shape, gpu_named("H100"), 1, RooflineOptions(overlap=overlap, overhead_ns=700))
        for overlap in ("operator", "full", "none")
    ]
    linear = LinearCosts(5_000_000, 205_000, 4_600, 34_000_000, 1_100, 280_000, 77, 9_000)
    return [linear, *rooflines]


@pytest.mark.parametrize("costs", models())
def test_a_step_costs_what_its_model_says(costs: CostModel) -> None:
    row = runs.cost_columns(costs)
    assert row is not None
    draws = random.Random(1)
    for _ in range(200):
        chunks = [
            (draws.randrange(5_000), draws.randint(1, 512)) for _ in range(draws.randrange(4))
        ]
        batch, contexts = draws.randrange(1, 200), draws.randrange(400_000)
        tokens = sum(count for _, count in chunks)
        squares = sum((start + count) ** 2 - start**2 for start, count in chunks)
        ends = sum(start + count for start, count in chunks)
        said = runs.step_ns(row, tokens, squares, ends, len(chunks), batch, contexts)
        assert said == costs.step_ns(chunks, batch, contexts)


@pytest.mark.parametrize("costs", models())
def test_a_run_costs_what_its_steps_cost_together(costs: CostModel) -> None:
    row = runs.cost_columns(costs)
    assert row is not None
    draws = random.Random(2)
    for _ in range(60):
        batch, contexts = draws.randint(1, 128), draws.randrange(300_000)
        steps = runs.straight_steps(row, batch, contexts, draws.randint(1, 400))
        line = runs.line_at(row, batch, contexts)
        each = [costs.step_ns((), batch, contexts + batch * step) for step in range(steps)]
        assert runs.run_ns(*line, batch, contexts, steps) == sum(each)


@pytest.mark.parametrize("costs", models())
def test_the_steps_within_a_time_are_those_that_end_by_then(costs: CostModel) -> None:
    row = runs.cost_columns(costs)
    assert row is not None
    draws = random.Random(3)
    for _ in range(60):
        batch, contexts = draws.randint(1, 128), draws.randrange(300_000)
        steps = runs.straight_steps(row, batch, contexts, draws.randint(1, 400))
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


@given(st.integers(0, 300), st.integers(1, 10**6), st.integers(0, 10**7), st.integers(0, 10**12))
def test_a_sum_of_floors_is_what_adding_them_says(n: int, m: int, a: int, b: int) -> None:
    assert runs.floor_sum(n, m, a, b) == sum((a * j + b) // m for j in range(n))
