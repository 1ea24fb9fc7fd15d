"""The paper's generated workloads, held to the paper's table."""

import numpy as np
import pytest

from simulator.streams import stream
from simulator.workload.arrivals import gap_cv, renewal_arrivals
from simulator.workload.generators import PowerLaw, parse_generator
from simulator.workload.lengths import power_law_lengths
from simulator.workload.request import TraceRequest, WorkloadError


@pytest.mark.parametrize(
    ("size", "mean", "p50", "p80", "p95", "p99"),
    [
        ("S", 128, 38, 113, 413, 1464),
        ("M", 256, 32, 173, 1288, 4208),
        ("L", 512, 55, 582, 3113, 5166),
    ],
)
def test_lengths_fit_the_table_of_the_paper(
    size: str, mean: int, p50: int, p80: int, p95: int, p99: int
) -> None:
    """Table 1: twenty draws of 10,000 against the paper's one, whose P99 hangs on 100 values."""
    lengths = np.concatenate(
        [power_law_lengths(size, 10_000, stream(seed, "lengths")) for seed in range(20)]
    )
    assert lengths.mean() == pytest.approx(mean, rel=0.02)
    assert np.quantile(lengths, [0.5, 0.8, 0.95]) == pytest.approx([p50, p80, p95], rel=0.08)
    assert np.quantile(lengths, 0.99) == pytest.approx(p99, rel=0.18)
    assert lengths.min() >= 1
    assert lengths.max() <= 6144


def test_lengths_are_multiples_of_one_step_but_for_the_cap() -> None:
    lengths = power_law_lengths("S", 10_000, stream(0, "lengths"))
    smallest = sorted(set(lengths.tolist()))[:4]
    steps = np.diff([0, *smallest])
    assert steps.max() - steps.min() <= 1  # the step is no whole number; lengths are rounded up


def test_a_short_workload_is_the_head_of_a_long_one() -> None:
    """Asking for fewer requests does not change those that are there."""
    generator = PowerLaw("M", "L", cv=2.0, rate_rps=3.0)
    assert generator.generate(5, seed=4) == generator.generate(500, seed=4)[:5]


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 4.0])
def test_arrivals_have_the_rate_and_the_variation_asked_for(cv: float) -> None:
    times_s = renewal_arrivals(8.0, cv, 40_000, stream(1, "arrivals"))
    assert len(times_s) / times_s[-1] == pytest.approx(8.0, rel=0.01 + 0.015 * cv)
    assert gap_cv(times_s) == pytest.approx(cv, rel=0.05, abs=1e-6)


def test_pairs_draw_both_sides_apart() -> None:
    """S-L has short prompts and long outputs, uncorrelated."""
    workload = PowerLaw("S", "L").generate(10_000, seed=2)
    prompts = np.array([request.prompt_tokens for request in workload])
    outputs = np.array([request.output_tokens for request in workload])
    assert prompts.mean() == pytest.approx(128, rel=0.03)
    assert outputs.mean() == pytest.approx(512, rel=0.03)
    assert abs(np.corrcoef(prompts, outputs)[0, 1]) < 0.03


def test_equal_seeds_give_equal_workloads_and_others_do_not() -> None:
    def generate(seed: int) -> list[TraceRequest]:
        return PowerLaw("M", "M").generate(50, seed)

    assert generate(1) == generate(1)
    assert generate(1) != generate(2)


def test_a_generator_is_read_from_one_word() -> None:
    assert parse_generator("power-law:M-M") == PowerLaw("M", "M")
    assert parse_generator("power-law:S-L,cv=4,rate=2.5") == PowerLaw("S", "L", 4.0, 2.5)


@pytest.mark.parametrize(
    "text",
    [
        "power-law:M",
        "power-law:X-M",
        "power-law:M-M-M",
        "power-law:M-M,cv",
        "power-law:M-M,cv=-1",
        "power-law:M-M,cv=nan",
        "power-law:M-M,speed=2",
        "power-law:M-M,rate=0",
        "zipf:M-M",
    ],
)
def test_a_wrong_word_is_refused_by_name(text: str) -> None:
    with pytest.raises(WorkloadError, match=text):
        parse_generator(text)
