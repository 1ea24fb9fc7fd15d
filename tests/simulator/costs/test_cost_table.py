"""A table's costs pass through its points and rise between them; what is wrong is named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.model import CostModel, LinearCosts
from simulator.costs.table import Curve, TableCosts, read_table

OURS = """\
prompt_tokens,batch_size,context_tokens,time_ms
0,1,100,10
0,1,1000,12
0,8,800,13.5
0,8,8000,20
100,0,0,15
500,0,0,55
2000,0,0,260
"""
LINEAR = LinearCosts(2_000_000, 50_000, 4_000, 10_000_000, 900, 30_000)


@pytest.fixture(name="table")
def _table(tmp_path: Path) -> TableCosts:
    return read_table(write(tmp_path, OURS))


def write(folder: Path, text: str) -> Path:
    path = folder / "costs.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("batch", "context", "milliseconds"),
    [(1, 100, 10.0), (1, 1000, 12.0), (8, 800, 13.5), (8, 8000, 20.0)],
)
def test_it_passes_through_its_decode_steps(
    table: TableCosts, batch: int, context: int, milliseconds: float
) -> None:
    """What was measured is given back to the nanosecond."""
    assert table.step_ns([], batch, context) == milliseconds * 1e6


@pytest.mark.parametrize(("tokens", "milliseconds"), [(100, 15), (500, 55), (2000, 260)])
def test_it_passes_through_its_prompts(table: TableCosts, tokens: int, milliseconds: float) -> None:
    """A whole prompt alone costs what was measured; the base is what chunks pay again."""
    assert table.step_ns([(0, tokens)], 0, 0) == milliseconds * 1e6
    base_ns = table.step_ns([(0, 50)], 0, 0) - table.prefill_ns(50, 50**2)
    assert base_ns == 5_000_000
    assert base_ns + table.prefill_ns(tokens, tokens**2) == milliseconds * 1e6
    chunked = table.step_ns([(0, 50)], 0, 0) + table.step_ns([(50, tokens - 50)], 0, 0)
    assert chunked == milliseconds * 1e6 + base_ns


def test_between_points_it_is_straight(table: TableCosts) -> None:
    """Half way in context, and then in batch, costs half way."""
    assert table.step_ns([], 1, 550) == 11_000_000
    assert table.step_ns([], 8, 4400) == 16_750_000
    at_800 = [table.step_ns([], batch, 800) for batch in (1, 8)]
    assert table.step_ns([], 4, 800) == at_800[0] + (at_800[1] - at_800[0]) * 3 // 7


def test_beyond_its_points_it_goes_on_as_it_came(table: TableCosts) -> None:
    """Flat below the first point, straight beyond the last, in context and in batch."""
    assert table.step_ns([], 1, 5) == 10_000_000
    assert table.step_ns([], 8, 15_200) == 26_500_000
    below, last, beyond = (table.step_ns([], batch, 800) for batch in (1, 8, 15))
    assert beyond - last == last - below


def test_a_mixed_step_costs_the_prompt_and_what_the_decodes_add(table: TableCosts) -> None:
    """Like the linear model: the bases are not paid twice."""
    expected = 55_000_000 + 13_500_000 - table.decode_base_ns
    assert table.step_ns([(0, 500)], 8, 800) == expected
    assert table.decode_base_ns == 10_000_000


def tabulated(costs: CostModel) -> TableCosts:
    batches, contexts, lengths = (1, 2, 8, 32, 128), (1, 1000, 20_000, 200_000), (0, 64, 512, 4096)
    return TableCosts(
        batches,
        tuple(
            Curve(contexts, tuple(costs.step_ns([], batch, one) for one in contexts))
            for batch in batches
        ),
        Curve(lengths, tuple(costs.prefill_ns(one, one**2) for one in lengths)),
    )


@given(
    chunks=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 500)), max_size=3),
    batch=st.integers(0, 160),
    context=st.integers(0, 250_000),
    more=st.integers(0, 50),
)
def test_more_work_never_costs_less(
    chunks: list[tuple[int, int]], batch: int, context: int, more: int
) -> None:
    """A step's cost does not fall in its batch, contexts or prompts, beyond the table as within."""
    costs = tabulated(LINEAR)
    cost_ns = costs.step_ns(chunks, batch, context)
    assert costs.step_ns(chunks, batch + more, context) >= cost_ns
    assert costs.step_ns(chunks, batch, context + more) >= cost_ns
    assert costs.step_ns([*chunks, (0, more)], batch, context) >= cost_ns


@given(batch=st.integers(1, 128), context=st.integers(1, 200_000))
def test_a_table_of_a_linear_model_is_that_model(batch: int, context: int) -> None:
    """Nothing but rounding comes between a linear model and its table."""
    found = tabulated(LINEAR).step_ns([], batch, context)
    assert found == pytest.approx(LINEAR.step_ns([], batch, context), abs=3)


def test_overhead_is_added_once_a_step(tmp_path: Path) -> None:
    """The CPU's time between steps comes on top of what was measured."""
    path = write(tmp_path, OURS)
    plain, slower = read_table(path), read_table(path, overhead_ns=7)
    for step in (([], 1, 100), ([(0, 500)], 0, 0), ([(0, 500)], 8, 800)):
        assert slower.step_ns(*step) == plain.step_ns(*step) + 7


SPLITWISE = """\
model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel
m,a100,512,1,128,196.0,54.8,2
m,a100,512,1,128,195.0,54.9,2
m,a100,512,1,128,197.0,54.7,2
m,a100,1024,1,128,377.0,55.5,2
m,a100,512,8,128,1600.0,61.7,2
m,h100,512,1,128,85.0,37.0,2
"""


def test_splitwise_tables_are_read(tmp_path: Path) -> None:
    """Medians of repetitions; contexts are those half way; one machine has to be chosen."""
    path = write(tmp_path, SPLITWISE)
    costs = read_table(path, {"hardware": "a100"})
    assert costs.step_ns([(0, 512)], 0, 0) == 196_000_000
    assert costs.step_ns([], 1, 512 + 64) == 54_800_000
    assert costs.step_ns([], 8, 8 * (512 + 64)) == 61_700_000
    with pytest.raises(ValueError, match=r"several hardwares \(a100, h100\); choose one"):
        read_table(path)
    with pytest.raises(ValueError, match="there is no column gpu"):
        read_table(path, {"gpu": "a100"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OURS + "0,1,x,10\n", "line 9, column context_tokens: expected a number"),
        (OURS + "0,1.5,10,10\n", "line 9, column batch_size: expected a whole number"),
        (OURS + "0,1,10,0\n", "line 9, column time_ms: expected a time above 0"),
        (OURS + "10,1,10,10\n", "line 9, column prompt_tokens: expected 0 beside a batch"),
        (OURS + "0,0,10,10\n", "line 9, column batch_size: expected 1 or more"),
        ("a,b\n1,2\n", "line 1: expected the columns batch_size, context_tokens, time_ms"),
        ("batch_size,context_tokens,time_ms\n1,10,5\n", r"no measurements of prompts"),
        ("batch_size,context_tokens,time_ms\n", r"no measurements of prompts"),
        (OURS.split("0,1,100")[0] + "100,0,0,15\n", "no measurements of decode steps"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    """By file, line and column, with what was expected."""
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    """A path that is none."""
    with pytest.raises(ValueError, match="cannot read"):
        read_table(tmp_path / "none.csv")
