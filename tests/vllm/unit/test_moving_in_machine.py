"""Requests that began elsewhere, in any order of events, on vLLM's own scheduler.

Laws: whatever happens, each stream is the beginning of the right answer; one that ends by itself
is all of it, and any other ends with a word that tells its frontend what to do; each KV block that
is read holds what it should; at rest no slot, block or record is held.
"""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from migration.engine import RequestState
from policies.types import MigrationId, RequestId
from tests.vllm.toys.toy_engine import BLOCK_TOKENS, HOLD_S, ToyEngine
from tests.vllm.toys.toy_model import blocks_of, continuation

PROMPTS = (
    tuple(range(1, 7)),
    tuple(range(1, 17)),
    tuple(range(1, 15)),
    (*range(1, 9), 40, 41, 42, 43),
)
MORE = 6
SELDOM = st.sampled_from([False, False, False, True])
"""For what would end most stories before they come to anything."""


@dataclass(eq=False)
class Move:
    """What the source of one migration has done so far."""

    number: int
    prompt: tuple[int, ...]
    outputs: list[int]
    sent: int = 0
    coming: range | None = None
    over: bool = False
    claims: list[str] = field(default_factory=list)

    @property
    def migration_id(self) -> MigrationId:
        return MigrationId(f"m{self.number}")

    @property
    def request_id(self) -> RequestId:
        return RequestId(f"r{self.number}")

    @property
    def kv(self) -> list[bytes]:
        tokens = [*self.prompt, *self.outputs]
        return blocks_of(tokens, BLOCK_TOKENS, len(tokens) - 1)


class MovingIn(RuleBasedStateMachine):
    moves: Bundle[Move] = Bundle("moves")
    names: Bundle[str] = Bundle("names")

    @initialize(
        pipelined=st.booleans(), caching=st.booleans(), n_blocks=st.sampled_from([12, 16, 30])
    )
    def start(self, pipelined: bool, caching: bool, n_blocks: int) -> None:
        self.now_s = 100.0
        self.engine = ToyEngine(
            n_blocks,
            pipelined=pipelined,
            caching=caching,
            budget=12,
            seats=3,
            slots=12,
            clock=lambda: self.now_s,
        )
        self.shelf = self.engine.side.shelf
        self.all: list[Move] = []
        self.expected: dict[str, list[int]] = {}

    def submit(self, prompt: tuple[int, ...], max_tokens: int, **options: object) -> str:
        name = f"{'chat' if len(self.expected) % 2 else 'cmpl'}{len(self.expected)}"
        self.expected[name] = continuation(prompt, max_tokens)
        self.engine.submit(name, prompt, max_tokens, **options)  # type: ignore[arg-type]
        return name

    # --- the source ---

    @precondition(lambda self: len(self.all) < 3)
    @rule(target=moves, prompt=st.sampled_from(PROMPTS), n=st.integers(1, 9))
    def begin(self, prompt: tuple[int, ...], n: int) -> Move:
        move = Move(len(self.all), prompt, continuation(prompt, n))
        assert self.shelf.open(move.migration_id)
        self.all.append(move)
        return move

    @rule(move=moves, n=st.integers(1, 3))
    def frame_comes(self, move: Move, n: int) -> None:
        until = min(move.sent + n, len(move.kv))
        if move.over or move.coming or until == move.sent:
            return
        if self.shelf.place(move.migration_id, move.sent, until - move.sent):
            move.coming = range(move.sent, until)

    @rule(move=moves)
    def frame_is_here(self, move: Move) -> None:
        if move.coming is None:
            return
        first, n = move.coming.start, len(move.coming)
        slots = self.shelf.landing_slots(move.migration_id, first, n)
        for slot, content in zip(slots, move.kv[first : first + n], strict=True):
            self.engine.arena.view(slot)[:] = content
        self.shelf.arrived(move.migration_id, first, n)
        move.sent, move.coming = move.coming.stop, None

    @rule(move=moves, n=st.integers(1, 4))
    def frame(self, move: Move, n: int) -> None:
        self.frame_comes(move, n)
        self.frame_is_here(move)

    @rule(move=moves)
    def rest_and_commit(self, move: Move) -> None:
        self.frame_is_here(move)
        self.frame(move, 99)
        self.commit(move)

    @rule(move=moves)
    def commit(self, move: Move) -> None:
        if move.over or move.coming:
            return
        whole = len(move.prompt) + len(move.outputs) - 1
        state = RequestState(
            move.request_id,
            0,
            move.prompt,
            tuple(move.outputs),
            min(whole, move.sent * BLOCK_TOKENS),
            {},
        )
        if not self.shelf.commit(move.migration_id, state):
            self.shelf.drop(move.migration_id, "refused")
        move.over = True

    @rule(move=moves, really=SELDOM)
    def drop(self, move: Move, really: bool = True) -> None:
        if really and not move.over:
            self.shelf.drop(move.migration_id, "aborted")
            move.over, move.coming = True, None

    @rule(move=moves, really=SELDOM)
    def expire(self, move: Move, really: bool = True) -> None:
        if really:
            self.shelf.expire(move.migration_id)

    # --- frontends and clients ---

    @rule(target=names, move=moves, known=st.integers(0, 9), early=st.booleans())
    def claim(self, move: Move, known: int, early: bool) -> MultipleResults[str] | str:
        if len(move.claims) == 3:
            return multiple()
        resume = {
            "migration_id": move.migration_id,
            "output_token_ids": move.outputs[:known],
            "early": early,
        }
        n = len(move.outputs) + MORE
        name = self.submit(move.prompt, n, request_id=move.request_id, resume=resume)
        move.claims.append(name)
        return name

    @precondition(lambda self: len(self.expected) < 8)
    @rule(
        target=names, prompt=st.sampled_from(PROMPTS), n=st.integers(1, 12), known=st.integers(0, 4)
    )
    def recompute(self, prompt: tuple[int, ...], n: int, known: int) -> str:
        ids = continuation(prompt, min(known, n - 1))
        resume = {"migration_id": None, "output_token_ids": ids}
        return self.submit(prompt, n, request_id=f"x{len(self.expected)}", resume=resume)

    @precondition(lambda self: len(self.expected) < 8)
    @rule(target=names, prompt=st.sampled_from(PROMPTS), n=st.integers(1, 12), tagged=st.booleans())
    def request(self, prompt: tuple[int, ...], n: int, tagged: bool) -> str:
        name = f"x{len(self.expected)}" if tagged else None
        return self.submit(prompt, n, request_id=name)

    @rule(name=names, really=SELDOM)
    def client_leaves(self, name: str, really: bool) -> None:
        if really:
            self.engine.abort(name)

    @rule(name=names)
    def send_back(self, name: str) -> None:
        request = self.engine.request(name)
        tracked = None if request is None else self.engine.side.register.of(request)
        if tracked is not None:
            self.engine.bridge.to_engine(lambda: self.engine.side.requeue(tracked))

    @rule(really=SELDOM)
    def time_passes(self, really: bool = True) -> None:
        self.now_s += HOLD_S + 1 if really else 0.1

    @precondition(lambda self: not self.engine.idle)
    @rule(move=moves, n=st.integers(1, 3))
    def frame_and_steps(self, move: Move, n: int) -> None:
        self.frame(move, n)
        self.steps(n)

    @precondition(lambda self: not self.engine.idle)
    @rule(n=st.integers(1, 4))
    def steps(self, n: int) -> None:
        for _ in range(n):
            self.engine.step()

    @precondition(lambda self: not self.engine.idle)
    @rule(name=names, really=SELDOM)
    def client_leaves_within_a_step(self, name: str, really: bool) -> None:
        self.engine.step(lambda: self.engine.abort(name) if really else None)

    # --- laws ---

    @invariant()
    def streams_are_right(self) -> None:
        for name, stream in self.engine.streams.items():
            expected = self.expected[name]
            assert stream.token_ids == expected[: len(stream.token_ids)], name
            if stream.finish_reason == "length":
                assert stream.token_ids == expected, name
            elif stream.finish_reason is not None:
                assert stream.stop_reason == "migrate:requeue", stream

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for move in self.all:
            self.frame_is_here(move)
            self.drop(move)
        for turn in range(600):
            if self.engine.idle:
                break
            if turn % 50 == 49:
                self.time_passes()
            self.engine.step()
        for move in self.all:
            self.expire(move)
        self.streams_are_right()
        assert all(stream.over for stream in self.engine.streams.values())
        self.engine.check_rest()


MovingIn.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
test_any_order_of_events = MovingIn.TestCase
