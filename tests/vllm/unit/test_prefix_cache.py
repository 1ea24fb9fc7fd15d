"""The simulator's prefix cache finds, keeps and forgets what vLLM's own does."""

import itertools
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed here: nothing was compared")
vllm = pytest.importorskip("vllm", reason="vLLM is not installed here: nothing was compared")
if not vllm.__version__.startswith("0.32."):
    pytest.skip("the simulator follows vLLM 0.32: not compared", allow_module_level=True)

from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.utils.hashing import sha256  # noqa: E402
from vllm.v1.core import kv_cache_utils  # noqa: E402
from vllm.v1.core.kv_cache_manager import KVCacheManager  # noqa: E402
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec  # noqa: E402
from vllm.v1.request import Request  # noqa: E402

from policies.types import RequestId  # noqa: E402
from simulator.engine.batch import EngineRequest, Place  # noqa: E402
from simulator.engine.prefix_cache import PrefixCache  # noqa: E402
from simulator.engine.shared_blocks import SharedBlocks  # noqa: E402
from simulator.workload.request import PromptBlocks  # noqa: E402

BLOCK, BLOCKS = 4, 24


class Both:
    """One request after another, in the simulator's cache and in vLLM's."""

    def __init__(self) -> None:
        self.ours = PrefixCache(SharedBlocks(BLOCKS, BLOCK))
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        config = KVCacheConfig(
            num_blocks=BLOCKS + 1,  # one of vLLM's stands for none
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        )
        kv_cache_utils.init_none_hash(sha256)
        self.hasher = kv_cache_utils.get_request_block_hasher(BLOCK, sha256)
        self.theirs = KVCacheManager(config, BLOCKS * BLOCK, BLOCK, BLOCK)
        self.running: list[tuple[EngineRequest, Any]] = []
        self.outputs = itertools.count(10**6)
        self.hits = self.refusals = self.made = 0

    def make(self, ids: list[int], tokens: int) -> tuple[EngineRequest, Any]:
        """A prompt of so many tokens, made of blocks that these ids stand for."""
        name = f"request-{self.made}"
        self.made += 1
        mine = EngineRequest(RequestId(name), 0, tokens, self.made)
        mine.prefix = self.ours.prefix(mine, PromptBlocks.of(BLOCK, ids))
        text = [1_000 + BLOCK * one + place for one in ids for place in range(BLOCK)][:tokens]
        other = Request(name, text, SamplingParams(max_tokens=99), None, block_hasher=self.hasher)
        return mine, other

    def admit(self, pair: tuple[EngineRequest, Any]) -> bool:
        """Admit and compute a whole prompt; both find as much, or both have no room."""
        mine, other = pair
        found, found_tokens, _ = self.theirs.get_computed_blocks(other)
        new = other.num_tokens - found_tokens
        got = self.theirs.allocate_slots(other, new, found_tokens, found)
        blocks = self.ours.start(mine)
        assert (blocks is None) == (got is None)
        if blocks is None:
            self.refusals += 1
            return False
        assert mine.kv_tokens == found_tokens
        self.hits += found_tokens
        mine.blocks, mine.place = blocks, Place.BATCH
        self.ours.note(mine, mine.total_tokens)
        mine.kv_tokens = other.num_computed_tokens = mine.total_tokens
        self.running.append(pair)
        return True

    def decode(self, pair: tuple[EngineRequest, Any]) -> bool:
        """Add an output that nobody else has, and compute it; False where that needs room."""
        mine, other = pair
        other.append_output_token_ids(next(self.outputs))
        mine.output_tokens += 1
        got = self.theirs.allocate_slots(other, 1)
        missing = self.ours.blocks.blocks_for(mine.total_tokens) - len(mine.blocks)
        more = self.ours.blocks.allocate(missing)
        assert (more is None) == (got is None)
        if more is None:
            return False
        mine.blocks += more
        mine.kv_tokens = other.num_computed_tokens = mine.total_tokens
        return True

    def end(self, pair: tuple[EngineRequest, Any]) -> None:
        """Take the blocks away, as when it finishes or is preempted."""
        mine, other = pair
        self.theirs.free(other)
        self.ours.leave(mine)
        self.ours.blocks.free(mine.blocks)
        mine.blocks, mine.kv_tokens, mine.place = [], 0, Place.QUEUED
        other.num_computed_tokens = 0
        self.running.remove(pair)

    def check(self) -> None:
        """As much is free in both."""
        free = self.theirs.block_pool.get_num_free_blocks()
        assert self.ours.blocks.free_blocks == free


@pytest.mark.parametrize("seed", range(30))
def test_both_find_and_forget_alike(seed: int) -> None:
    """Random prompts of few ids in little memory, decoded, preempted, admitted again, ended."""
    draw = random.Random(seed)
    both = Both()
    preempted: list[tuple[EngineRequest, Any]] = []
    for _ in range(400):
        what = draw.random()
        if what < 0.4:
            ids = [draw.randrange(3) for _ in range(draw.randrange(1, 7))]
            both.admit(both.make(ids, draw.randrange(1, BLOCK * len(ids) + 1)))
        elif what < 0.75 and both.running:
            pair = draw.choice(both.running)
            if not both.decode(pair):
                both.end(pair)
        elif what < 0.85 and preempted:
            pair = preempted.pop(0)
            if not both.admit(pair):
                preempted.append(pair)
        elif both.running:
            pair = draw.choice(both.running)
            both.end(pair)
            if draw.random() < 0.3:
                preempted.append(pair)
        both.check()
    assert both.hits
    assert both.refusals
