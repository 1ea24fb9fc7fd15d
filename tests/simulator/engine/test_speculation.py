"""Speculative decoding: how many tokens a step yields, what it costs, and that none is lost."""

import itertools
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration.config import MigrationConfig
from policies.scheduler import SchedulerConfig
from policies.types import PriorityClass, RequestId
from simulator.costs.presets import preset
from simulator.costs.roofline import preset_for
from simulator.engine.engine import Engine, EngineLimits
from simulator.engine.speculation import MOST_GUESSES, Guesses, Speculation
from simulator.kernel.engine.speculating import right_guesses
from simulator.kernel.fleet import FastFleet
from simulator.kernel.setup import refusal, set_up
from simulator.kernel.state import GUESSED
from tests.simulator.costs.test_roofline import LLAMA_8B, PEAK
from tests.simulator.engine.engine_host import Host, add, check_blocks, run_out
from tests.simulator.simulated import SMALL, simulate, workload

TOY = preset("toy").costs


def make_engine(
    draft_tokens: int, acceptance: float, blocks: int = 40, budget: int = 48, seed: int = 0
) -> tuple[Engine, Host]:
    host = Host()
    limits = EngineLimits(blocks * 8, 8, 6, budget, 2)
    guesses = Guesses(Speculation(draft_tokens, acceptance), seed)
    return Engine(limits, TOY, host, guesses), host


@pytest.mark.parametrize(("acceptance", "steps"), [(1.0, 6), (0.0, 21)])
def test_all_right_or_all_wrong(acceptance: float, steps: int) -> None:
    """Three right guesses a step make four tokens of one; wrong ones make none."""
    engine, host = make_engine(3, acceptance)
    request = add(engine, host, "a", prompt=10, length=21)
    plans = run_out(engine)
    assert len(plans) == steps
    assert request.output_tokens == 21
    assert all(plan.tokens == 4 for plan in plans[1:])
    assert engine.blocks.free_blocks == 40


@pytest.mark.parametrize("acceptance", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("draft_tokens", [1, 4])
def test_the_mean_yield_is_that_of_theory(draft_tokens: int, acceptance: float) -> None:
    """(1 - a^(k+1)) / (1 - a) tokens a step, within three standard errors of 20,000 steps."""
    guesses = Guesses(Speculation(draft_tokens, acceptance), seed=7)
    position, yields = 0, []
    for _ in range(20_000):
        yields.append(1 + guesses.right(RequestId("a"), position))
        position += yields[-1]
    mean = sum(yields) / len(yields)
    expected = (1 - acceptance ** (draft_tokens + 1)) / (1 - acceptance)
    assert guesses.speculation.tokens_per_step == pytest.approx(expected)
    spread = (sum((one - mean) ** 2 for one in yields) / len(yields)) ** 0.5
    assert mean == pytest.approx(expected, abs=3 * spread / len(yields) ** 0.5)


def test_what_is_right_depends_on_request_and_position_alone() -> None:
    """Not on what was asked before, by whom, or whether it was forgotten; but on the seed."""
    first, second = (Guesses(Speculation(4, 0.6), seed=3) for _ in range(2))
    names = [RequestId("a"), RequestId("b")]
    places = [(name, position) for name in names for position in (0, 250, 255, 256, 700)]
    forwards = {place: first.right(*place) for place in places}
    first.forget(names[0])
    assert {place: first.right(*place) for place in reversed(places)} == forwards
    assert {place: second.right(*place) for place in reversed(places)} == forwards
    other = Guesses(Speculation(4, 0.6), seed=4)
    assert {place: other.right(*place) for place in places} != forwards


def test_guesses_come_in_runs_of_right_ones() -> None:
    """A step that begins one later within a run finds one right guess less."""
    guesses = Guesses(Speculation(5, 0.7), seed=0)
    found = [guesses.right(RequestId("a"), position) for position in range(2000)]
    assert set(found) == set(range(6))
    for here, after in itertools.pairwise(found):
        assert after == here - 1 if 0 < here < 5 else after >= here - 1


def test_guesses_are_free_until_computing_bounds_the_step() -> None:
    """By hand, toy costs: 1 ms a step, 10 us a token of a prompt after 0.5 ms; 20 us to guess."""
    speculation = Speculation(2, 0.5, draft_ns=20_000)
    plain_ns = TOY.step_ns((), 8, 800)
    assert speculation.step_ns(TOY, (), 8, 800) == plain_ns + 2 * 20_000
    large_ns = speculation.step_ns(TOY, (), 100, 800)
    assert large_ns == pytest.approx(500_000 + 200 * 10_000 + 800 * 100 + 100 * 10_000, abs=50_000)
    assert speculation.step_ns(TOY, [(0, 30)], 0, 0) == TOY.step_ns([(0, 30)], 0, 0)


def test_of_a_roofline_guesses_read_no_weights_and_no_context_again() -> None:
    """A decode step of 32 x 2,048 that memory bounds grows by a few per cent with four guesses."""
    costs = preset_for(LLAMA_8B, "H100", options=PEAK).costs
    plain_ns = costs.step_ns((), 32, 32 * 2048)
    guessed_ns = Speculation(4, 0.5).step_ns(costs, (), 32, 32 * 2048)
    assert plain_ns < guessed_ns < 1.05 * plain_ns


@dataclass(frozen=True)
class Arrival:
    at_step: int
    prompt: int
    length: int
    class_index: int


arrivals = st.lists(
    st.builds(
        Arrival,
        at_step=st.integers(0, 30),
        prompt=st.integers(1, 50),
        length=st.integers(1, 46),
        class_index=st.integers(0, 1),
    ),
    min_size=1,
    max_size=12,
)


@given(arrivals, st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_every_request_gets_exactly_its_tokens(
    some: list[Arrival], draft_tokens: int, acceptance: float
) -> None:
    """With little memory: preempted or not, and never more than the budget in a step."""
    engine, host = make_engine(draft_tokens, acceptance, blocks=12, budget=32)
    requests = []
    now = 0
    while now <= 30 or engine.requests():
        for index, one in enumerate(some):
            if one.at_step == now:
                made = add(engine, host, str(index), one.prompt, one.length, one.class_index)
                requests.append((made, one.length))
        plan = engine.plan_step()
        check_blocks(engine)
        if plan is not None:
            assert plan.tokens <= 32
            for request in plan.decodes:
                room = len(request.blocks) * 8
                assert room >= min(request.total_tokens + draft_tokens, 12 * 8)
            engine.complete_step(plan)
            check_blocks(engine)
        now += 1
        assert now < 5_000, "some request is never finished"
    assert [request.output_tokens for request, _ in requests] == [length for _, length in requests]
    assert engine.blocks.free_blocks == 12


def test_a_fleet_is_faster_the_more_guesses_are_right() -> None:
    """All is served, with migrations and preemptions; equal arguments give equal lives."""
    served = workload(150, rate=240)
    _, plain = simulate(served)
    spans: dict[float | None, int] = {}
    spans[None] = sum(life.last_token_ns - life.first_token_ns for life in plain)
    moved = preempted = 0
    faster = replace(SMALL, draft_tokens=3)
    for acceptance in (0.0, 0.6, 0.95):
        config = replace(faster, acceptance=acceptance)
        _, lives = simulate(served, config)
        moved += sum(len(life.moves) for life in lives)
        preempted += sum(life.preemptions for life in lives)
        assert [life.tokens for life in lives] == [one.output_tokens for one in served]
        spans[acceptance] = sum(life.last_token_ns - life.first_token_ns for life in lives)
        _, again = simulate(served, config)
        assert [life.last_token_ns for life in again] == [life.last_token_ns for life in lives]
    assert spans[0.0] > 1.5 * spans[0.6] > 1.5 * spans[0.95]
    assert moved
    assert preempted
    _, lives = simulate(served, replace(faster, acceptance=0.0, draft_us=200))
    assert sum(life.last_token_ns - life.first_token_ns for life in lives) > 1.3 * spans[None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acceptance": 0.5}, "no effect without draft_tokens"),
        ({"draft_us": 5}, "no effect without draft_tokens"),
        ({"draft_tokens": 2}, "draft_tokens needs acceptance"),
        ({"draft_tokens": -1}, "draft_tokens must not be negative"),
        ({"draft_tokens": 2, "acceptance": 1.2}, "acceptance must be within"),
        ({"draft_tokens": 4, "acceptance": 0.5}, "below max_num_seqs 16 times 5 tokens"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(workload(2, rate=1), replace(SMALL, **changes))  # type: ignore[arg-type]


def test_the_fast_simulator_leaves_what_fits_in_no_byte_to_the_other() -> None:
    scheduler = SchedulerConfig()
    config = replace(SMALL, acceptance=0.5, token_budget=16 * 257)
    assert refusal(replace(config, draft_tokens=MOST_GUESSES), scheduler) is None
    why_not = refusal(replace(config, draft_tokens=MOST_GUESSES + 1), scheduler)
    assert why_not is not None
    assert "255 tokens" in why_not
    with pytest.raises(ValueError, match="byte"):
        Guesses(Speculation(MOST_GUESSES + 1, 0.5), seed=0).all_right([(RequestId("a"), 2)])


def test_no_fleet_has_a_budget_that_a_full_batch_with_its_guesses_exceeds() -> None:
    config = replace(SMALL, draft_tokens=4, acceptance=0.5)
    with pytest.raises(ValueError, match="below max_num_seqs 16 times 5 tokens"):
        FastFleet(config, SchedulerConfig(), MigrationConfig(), compile_it=False)
    enough = replace(config, token_budget=80)
    FastFleet(enough, SchedulerConfig(), MigrationConfig(), compile_it=False)


@settings(deadline=None)
@given(
    draft_tokens=st.sampled_from([1, 2, 4, 9]),
    acceptance=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    seed=st.integers(0, 9),
    outputs=st.lists(st.sampled_from([1, 2, 3, 256, 257, 258, 514]), max_size=3),
    at_once=st.sampled_from([1, 100, 1 << 20]),
)
def test_what_is_drawn_at_once_is_what_is_drawn_one_by_one(
    draft_tokens: int, acceptance: float, seed: int, outputs: list[int], at_once: int
) -> None:
    """But for guesses past the last token, which nobody keeps."""
    guesses = Guesses(Speculation(draft_tokens, acceptance), seed)
    named = [(RequestId(f"request-{at}"), tokens) for at, tokens in enumerate(outputs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulator.engine.speculation._COUNTED_AT_ONCE", at_once)
        drawn = guesses.all_right(named)
    assert list(drawn) == [
        min(guesses.right(name, position), tokens - 1 - position)
        for name, tokens in named
        for position in range(tokens)
    ]


@pytest.mark.parametrize("arrays", [False, True])
def test_the_columns_know_what_each_request_guesses_right(arrays: bool) -> None:
    """Of every request that fits; one byte a token."""
    config = replace(SMALL, draft_tokens=3, acceptance=0.7)
    scheduler = SchedulerConfig(classes=(PriorityClass("normal"),))
    served = workload(30, rate=1, output=(1, 700))
    too_long = replace(served[4], prompt_tokens=5_000)
    served[4] = too_long
    shape = config.shape(1, seed=5)
    state = set_up(config, scheduler, shape, served, arrays=arrays)
    guesses = Guesses(Speculation(3, 0.7), seed=5)
    told = 0
    for position, request in enumerate(served):
        if request is too_long:
            continue
        told += request.output_tokens
        for output in range(request.output_tokens):
            right = guesses.right(RequestId(f"request-{request.index}"), output)
            kept = min(right, request.output_tokens - 1 - output)
            assert right_guesses(state, state.req[GUESSED][position] + output) == kept
    assert memoryview(state.prompt_keys).nbytes == told + -told % 8
