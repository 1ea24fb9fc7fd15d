"""Shared blocks on columns: the same for the same requests as in `simulator.engine.shared_blocks`.

Whatever is asked of both, they hand out, find, keep and free the same blocks in the same order, and
allocated + reserved + free = total (INV-3).
"""

import random
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.types import RequestId
from simulator.engine.batch import EngineRequest
from simulator.engine.prefix import Prefix
from simulator.engine.prefix_cache import PrefixCache
from simulator.engine.roster import EngineLimits
from simulator.engine.shared_blocks import SharedBlocks
from simulator.kernel.engine.keys import with_keys
from simulator.kernel.engine.prefixes import (
    begin_anew,
    key_of,
    move_in,
    note_kv,
    release_blocks,
    start,
    take,
)
from simulator.kernel.engine.shared_blocks import free_ring, hand_back, hand_out, lay_out
from simulator.kernel.state import (
    AFTER,
    ALLOCATED,
    BEFORE,
    CONTENT,
    FITS_TOKENS,
    FOUND,
    FREE,
    HOLDERS,
    KV,
    OUT,
    OWN,
    RESERVED,
    State,
    new_state,
)
from simulator.workload.request import PromptBlocks, TraceRequest

TOTAL, BLOCK, OUTPUTS = 12, 8, 24
HERE = 1
"""The instance looked at; the one before it is to stay as it is."""

CALLS = ["start", "start", "grow", "note", "leave", "reserve", "unreserve", "move in"]
calls = st.lists(
    st.tuples(st.sampled_from(CALLS), st.integers(0, 7), st.integers(0, 6)), max_size=80
)


def prompts(draws: random.Random, count: int, longest: int = 60) -> list[TraceRequest]:
    """Draw requests whose prompts begin alike, told in pieces of several sizes, or not at all."""
    requests = []
    for index in range(count):
        size, known = draws.choice([3, 8, 8, 12, 16]), draws.randint(0, 9)
        ids = [draws.choice([1, 1, 1, 2]) for _ in range(known)]
        blocks = PromptBlocks.of(size, ids) if draws.random() < 0.9 else None
        prompt_tokens = draws.randint(1, longest)
        requests.append(TraceRequest(index, 0.0, prompt_tokens, OUTPUTS, prompt_blocks=blocks))
    return requests


def columns_of(requests: list[TraceRequest]) -> State:
    """Put requests and two empty instances into columns."""
    limits = EngineLimits(TOTAL * BLOCK, BLOCK, prefix_caching=True)
    lengths = [one.prompt_tokens for one in requests], [OUTPUTS] * len(requests)
    nothing = [0] * len(requests)
    state = new_state((*lengths, nothing, nothing), 2, limits, [0], arrays=False)
    state = with_keys(state, requests)
    for i in range(2):
        lay_out(state, i)
        state.ins[FREE][i] = TOTAL
    for r in range(len(requests)):
        begin_anew(state, r)
    return state


class Both:
    """One memory twice: as the engine model has it, and on columns."""

    def __init__(self, requests: list[TraceRequest]) -> None:
        self.columns = columns_of(requests)
        self.blocks = SharedBlocks(TOTAL, BLOCK)
        self.cache = PrefixCache(self.blocks)
        self.requests = [
            EngineRequest(RequestId(f"request-{r}"), 0, one.prompt_tokens, r)
            for r, one in enumerate(requests)
        ]
        for request, one in zip(self.requests, requests, strict=True):
            request.prefix = self.cache.prefix(request, one.prompt_blocks)
        self.reserved: dict[int, tuple[list[int], int]] = {}

    def call(self, what: str, r: int, number: int) -> None:
        """Ask the same of both, where it can be asked."""
        request = self.requests[r]
        match what:
            case "start" if not request.blocks:
                self._start(r)
            case "grow" if request.blocks:
                self._grow(r, number)
            case "note" if request.blocks:
                kv_tokens = max(request.kv_tokens, request.total_tokens - 2 * number)
                request.kv_tokens = self.columns.req[KV][r] = kv_tokens
                self.cache.note(request, kv_tokens)
                note_kv(self.columns, HERE, r, kv_tokens)
            case "leave" if request.blocks:
                self.cache.leave(request)
                self.blocks.free(request.blocks)
                request.blocks = []
                release_blocks(self.columns, HERE, r, self.columns.req[KV][r])
            case "reserve":
                self._reserve(r, number)
            case "unreserve" if r in self.reserved:
                ids, last = self.reserved.pop(r)
                self.blocks.unreserve(ids)
                hand_back(self.columns, HERE, last, len(ids))
                self._count(RESERVED, FREE, len(ids))
            case "move in" if not request.blocks:
                self._move_in(r)

    def _start(self, r: int) -> None:
        request = self.requests[r]
        taken = self.cache.start(request)
        assert start(self.columns, HERE, r) == (taken is not None)
        request.blocks = taken or []
        if taken is not None:
            assert self.columns.req[KV][r] == request.kv_tokens

    def _grow(self, r: int, number: int) -> None:
        request = self.requests[r]
        longer = min(number, OUTPUTS - request.output_tokens)
        missing = self.blocks.blocks_for(request.total_tokens + longer) - len(request.blocks)
        if missing > self.blocks.free_blocks:
            return
        request.output_tokens += longer
        self.columns.req[OUT][r] += longer
        if missing > 0:
            request.blocks += self.blocks.allocate(missing) or []
            take(self.columns, HERE, r, missing)

    def _reserve(self, r: int, number: int) -> None:
        ids = self.blocks.reserve(number)
        if ids is not None:
            before, last = self.reserved.get(r, ([], -1))
            last = hand_out(self.columns, HERE, last, number, 0)
            self.reserved[r] = before + ids, last
            self._count(FREE, RESERVED, number)

    def _move_in(self, r: int) -> None:
        request, (ids, last) = self.requests[r], self.reserved.get(r, ([], -1))
        if len(ids) < self.blocks.blocks_for(request.total_tokens):
            return
        del self.reserved[r]
        request.blocks, request.kv_tokens = ids, request.total_tokens - 1
        self.blocks.commit(ids)
        self.cache.note(request, request.kv_tokens)
        self._count(RESERVED, ALLOCATED, len(ids))
        req = self.columns.req
        req[KV][r], req[FITS_TOKENS][r] = request.kv_tokens, len(ids) * BLOCK
        move_in(self.columns, HERE, r, last)

    def _count(self, before: int, after: int, blocks: int) -> None:
        self.columns.ins[before][HERE] -= blocks
        self.columns.ins[after][HERE] += blocks

    def check(self) -> None:
        """Compare all there is, block by block."""
        ins, columns = self.columns.ins, self.columns.blocks
        first = HERE * (TOTAL + 1)
        free = [block - first for block in ring(self.columns, free_ring(self.columns, HERE))]
        assert free == list(self.blocks._queue._queue)
        assert columns[HOLDERS][first : first + TOTAL] == self.blocks._holders
        assert ins[FREE][HERE] == len(free) == self.blocks.free_blocks
        assert ins[ALLOCATED][HERE] == self.blocks.allocated_blocks
        assert ins[RESERVED][HERE] == self.blocks.reserved_blocks
        assert ins[FREE][HERE] + ins[ALLOCATED][HERE] + ins[RESERVED][HERE] == TOTAL
        contents = columns[CONTENT][first : first + TOTAL]
        known = {block for block, content in enumerate(contents) if content >= 0}
        assert known == self.blocks._key_of.keys()
        assert len({contents[block] for block in known}) == len(self.blocks._blocks_of)
        for r, request in enumerate(self.requests):
            if request.blocks:
                own = request.blocks[self.columns.req[FOUND][r] :]
                last = self.columns.req[OWN][r]
                assert [block - first for block in [*ring(self.columns, last), last]] == own
        assert columns[HOLDERS][:first] == [0] * first


def ring(s: State, last: int) -> Iterator[int]:
    """List a ring but for its last, forwards; backwards it is the same."""
    block = s.blocks[AFTER][last]
    while block != last:
        yield block
        assert s.blocks[BEFORE][s.blocks[AFTER][block]] == block
        block = s.blocks[AFTER][block]


@settings(deadline=None)
@given(st.integers(0, 10**6), calls)
def test_columns_hand_out_find_and_free_the_same_blocks(
    seed: int, script: list[tuple[str, int, int]]
) -> None:
    both = Both(prompts(random.Random(seed), 8))
    for call in script:
        both.call(*call)
        both.check()


def test_content_is_found_shared_and_lost_in_such_scripts() -> None:
    """Else the test above would prove little."""
    draws = random.Random(0)
    seen: set[str] = set()
    for seed in range(40):
        both = Both(prompts(random.Random(seed), 8))
        for _ in range(60):
            known = len(both.blocks._key_of)
            both.call(draws.choice(CALLS), draws.randrange(8), draws.randint(0, 6))
            both.check()
            seen |= {"shared"} if max(both.blocks._holders) > 1 else set()
            seen |= {"lost"} if len(both.blocks._key_of) < known else set()
            seen |= {"found"} if any(both.columns.req[FOUND]) else set()
            if len(both.blocks._blocks_of) < len(both.blocks._key_of):
                seen |= {"twice"}
    assert seen == {"shared", "lost", "found", "twice"}


@given(st.integers(0, 10**6))
def test_blocks_have_one_number_where_they_have_one_key(seed: int) -> None:
    """Hashes and numbers tell the same blocks apart, those of nobody else included."""
    requests = prompts(random.Random(seed), 12)
    state = columns_of(requests)
    pairs = set()
    for r, one in enumerate(requests):
        if one.prompt_blocks is not None:
            prefix = Prefix(one.prompt_blocks, one.prompt_tokens, f"request-{r}", BLOCK)
            full = (one.prompt_tokens + OUTPUTS) // BLOCK
            pairs |= {(key, key_of(state, r, n)) for n, key in enumerate(prefix.keys(0, full))}
    assert len(pairs) == len({key for key, _ in pairs}) == len({number for _, number in pairs})
    assert all(number >= 0 for _, number in pairs)
