"""Requests that began elsewhere, on vLLM's own scheduler: every case by itself."""

import pytest

from migration.engine import RequestState
from policies.types import MigrationId, RequestId
from tests.vllm.toys.toy_engine import BLOCK_TOKENS, HOLD_S, ToyEngine
from tests.vllm.toys.toy_model import blocks_of, continuation

M, R = MigrationId("m"), RequestId("r")
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
ANSWER = continuation(PROMPT, 20)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(params=[False, True], ids=["in step", "pipelined"])
def engine(request: pytest.FixtureRequest) -> ToyEngine:
    return ToyEngine(pipelined=request.param, clock=Clock())


def land(engine: ToyEngine, first: int, blocks: list[bytes], migration: MigrationId = M) -> None:
    shelf = engine.side.shelf
    assert shelf.place(migration, first, len(blocks))
    for slot, content in zip(
        shelf.landing_slots(migration, first, len(blocks)), blocks, strict=True
    ):
        engine.arena.view(slot)[:] = content
    shelf.arrived(migration, first, len(blocks))


def kv(n_outputs: int) -> list[bytes]:
    tokens = PROMPT + ANSWER[:n_outputs]
    return blocks_of(tokens, BLOCK_TOKENS, len(tokens) - 1)


def state(n_outputs: int, kv_tokens: int | None = None) -> RequestState:
    whole = len(PROMPT) + n_outputs - 1
    return RequestState(
        R,
        0,
        tuple(PROMPT),
        tuple(ANSWER[:n_outputs]),
        whole if kv_tokens is None else kv_tokens,
        {},
    )


def claim(engine: ToyEngine, name: str, n_outputs: int, *, early: bool) -> None:
    ids = ANSWER[:n_outputs]
    resume = {"migration_id": M, "output_token_ids": ids, "early": early}
    engine.submit(name, PROMPT, len(ANSWER), request_id=R, resume=resume)


def steps(engine: ToyEngine, n: int) -> None:
    for _ in range(n):
        engine.step()


def rest(engine: ToyEngine) -> None:
    for _ in range(200):
        if engine.idle:
            break
        engine.step()
    engine.side.shelf.expire(M)
    engine.check_rest()


def test_an_early_claim_waits_and_takes_over_without_computing_anything_twice(
    engine: ToyEngine,
) -> None:
    shelf = engine.side.shelf
    assert shelf.open(M)
    claim(engine, "a", 3, early=True)
    steps(engine, 3)
    land(engine, 0, kv(5)[:2])
    steps(engine, 3)
    assert engine.runner.computed == 0
    land(engine, 2, kv(8)[2:])
    assert shelf.commit(M, state(8))
    rest(engine)

    assert engine.streams["a"].token_ids == ANSWER
    assert engine.runner.computed == len(ANSWER) - 8
    assert engine.received == {"a": 1}


@pytest.mark.parametrize("kv_tokens", [0, 4, 8, 12, 16, 17])
@pytest.mark.parametrize("known", [0, 3, 8])
def test_what_the_commit_lacks_is_computed(engine: ToyEngine, known: int, kv_tokens: int) -> None:
    """With 0, nothing was copied at all: the request must begin like any newcomer."""
    shelf = engine.side.shelf
    shelf.open(M)
    claim(engine, "a", known, early=True)
    steps(engine, 2)
    n_blocks = -(-kv_tokens // BLOCK_TOKENS)
    if n_blocks:
        land(engine, 0, kv(8)[:n_blocks])
    assert shelf.commit(M, state(8, kv_tokens))
    rest(engine)

    assert engine.streams["a"].token_ids == ANSWER
    assert engine.runner.computed == len(PROMPT) + len(ANSWER) - 1 - kv_tokens


def test_nothing_copied_but_the_prefix_has_come_to_be_cached_meanwhile(engine: ToyEngine) -> None:
    shelf = engine.side.shelf
    shelf.open(M)
    claim(engine, "a", 3, early=True)
    steps(engine, 2)
    engine.submit("other", PROMPT, 12)
    steps(engine, 20)
    shelf.commit(M, state(8, 0))
    rest(engine)

    assert engine.streams["a"].token_ids == ANSWER


@pytest.mark.parametrize("n_landed", [0, 1, 3])
def test_a_final_claim_uses_what_has_come_in(engine: ToyEngine, n_landed: int) -> None:
    engine.side.shelf.open(M)
    if n_landed:
        land(engine, 0, kv(8)[:n_landed])
    engine.side.shelf.drop(M, "the source died")
    claim(engine, "a", 8, early=False)
    rest(engine)

    assert engine.streams["a"].token_ids == ANSWER
    saved = n_landed * BLOCK_TOKENS
    assert engine.runner.computed == len(PROMPT) + len(ANSWER) - 1 - saved


@pytest.mark.parametrize("known", [5, 8])
def test_a_commit_between_the_look_and_the_plan_of_a_final_claim(
    engine: ToyEngine, known: int
) -> None:
    """Blocks were allocated for what had come in; the commit brings more than that."""
    shelf = engine.side.shelf
    shelf.open(M)
    land(engine, 0, kv(8)[:1])
    claim(engine, "a", known, early=False)
    plan = engine.side.plan

    def plan_after_commit(output: object) -> object:
        record = shelf.claim(M)
        if record is not None and record.commit is None:
            land(engine, 1, kv(8)[1:])
            shelf.commit(M, state(8))
        return plan(output)

    engine.side.plan = plan_after_commit  # type: ignore[method-assign, assignment]
    rest(engine)

    assert engine.streams["a"].token_ids == ANSWER


def test_memory_is_short_at_commit(engine: ToyEngine) -> None:
    """The tail has no blocks, and KV for less than was expected was copied."""
    shelf = engine.side.shelf
    shelf.open(M)
    claim(engine, "a", 8, early=True)
    steps(engine, 2)
    land(engine, 0, kv(8)[:3])
    engine.side._core.grow = lambda request, tokens: False  # type: ignore[method-assign]
    shelf.commit(M, state(16, 12))
    rest(engine)

    assert engine.streams["a"].token_ids == ANSWER


def test_a_prefix_cached_here_is_not_written_to(engine: ToyEngine) -> None:
    engine.submit("first", PROMPT, 6)
    rest(engine)
    engine.side.shelf.open(M)
    claim(engine, "a", 3, early=True)
    steps(engine, 2)
    land(engine, 0, [b"\xee" * BLOCK_TOKENS * 8] * 2 + kv(8)[2:4])
    engine.side.shelf.commit(M, state(8, 16))
    rest(engine)

    assert engine.streams["a"].token_ids == ANSWER


def test_all_of_it_is_cached_here_but_it_must_not_run_ahead(engine: ToyEngine) -> None:
    engine.submit("first", PROMPT, 12)
    rest(engine)
    before = engine.runner.computed
    engine.side.shelf.open(M)
    claim(engine, "a", 7, early=True)
    steps(engine, 5)
    assert engine.runner.computed == before
    land(engine, 0, kv(9))
    engine.side.shelf.commit(M, state(9))
    rest(engine)
    assert engine.streams["a"].token_ids == ANSWER


def test_a_final_claim_takes_the_early_ones_place(engine: ToyEngine) -> None:
    engine.side.shelf.open(M)
    claim(engine, "early", 3, early=True)
    steps(engine, 2)
    land(engine, 0, kv(8)[:3])
    steps(engine, 2)
    claim(engine, "final", 8, early=False)
    engine.side.shelf.drop(M, "lost")
    rest(engine)

    assert engine.streams["early"].stop_reason == "migrate:requeue"
    assert engine.streams["final"].token_ids == ANSWER
    assert engine.side.counts["salvaged"] == 1
    assert engine.runner.computed == len(PROMPT) + len(ANSWER) - 1 - 12


def test_a_final_claim_wins_though_the_early_one_comes_after_it(engine: ToyEngine) -> None:
    engine.side.shelf.open(M)
    land(engine, 0, kv(8))
    engine.side.shelf.commit(M, state(8))
    claim(engine, "final", 8, early=False)
    claim(engine, "early", 3, early=True)
    rest(engine)

    assert engine.streams["early"].stop_reason == "migrate:requeue"
    assert engine.streams["final"].token_ids == ANSWER


def test_an_early_claim_repeated(engine: ToyEngine) -> None:
    engine.side.shelf.open(M)
    claim(engine, "one", 3, early=True)
    steps(engine, 2)
    land(engine, 0, kv(8)[:2])
    steps(engine, 2)
    claim(engine, "two", 5, early=True)
    steps(engine, 3)
    land(engine, 2, kv(8)[2:])
    engine.side.shelf.commit(M, state(8))
    rest(engine)

    assert engine.streams["one"].stop_reason == "migrate:requeue"
    assert engine.streams["two"].token_ids == ANSWER


def test_the_client_leaves_while_blocks_land(engine: ToyEngine) -> None:
    """The slots a frame is being received into are nobody else's until the llumlet is done."""
    shelf = engine.side.shelf
    shelf.open(M)
    claim(engine, "a", 3, early=True)
    steps(engine, 2)
    shelf.place(M, 0, 2)
    slots = shelf.landing_slots(M, 0, 2)
    engine.abort("a")
    steps(engine, 3)
    assert shelf.landing_slots(M, 0, 2) == slots
    assert engine.slots_in.free == len(engine.slots_in) - 2
    shelf.arrived(M, 0, 2)
    shelf.drop(M, "the source left")
    rest(engine)


def test_nobody_brings_anything(engine: ToyEngine) -> None:
    claim(engine, "a", 3, early=True)
    steps(engine, 3)
    clock = engine.side.incoming._clock
    assert isinstance(clock, Clock)
    clock.now_s += HOLD_S + 1
    rest(engine)
    assert engine.streams["a"].stop_reason == "migrate:requeue"


def test_another_prompt_is_not_taken_for_this_one(engine: ToyEngine) -> None:
    """And nothing of what came in stays in the prefix cache under this prompt's name."""
    shelf = engine.side.shelf
    shelf.open(M)
    other = [11, *PROMPT[1:]]
    resume = {"migration_id": M, "output_token_ids": ANSWER[:3], "early": True}
    engine.submit("a", other, 20, request_id=R, resume=resume)
    steps(engine, 2)
    land(engine, 0, kv(8))
    steps(engine, 2)
    shelf.commit(M, state(8))
    rest(engine)

    assert engine.streams["a"].stop_reason == "migrate:requeue"
    assert engine.side.counts["mismatched"] == 1
    stream = engine.submit("b", other, 5)
    rest(engine)
    assert stream.token_ids == continuation(other, 5)
