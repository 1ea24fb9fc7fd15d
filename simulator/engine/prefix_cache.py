"""Prompts with a common prefix share its KV: what vLLM V1 calls prefix caching.

Only full blocks are shared. A block is identified by its content and that of all blocks before it,
from the step that computes it; a request admitted later reuses what it finds, and computes the
rest, at least one token. Parts of a prompt that a trace does not describe, and all outputs, are
never shared: only the request itself finds them again, after a preemption.
"""

from collections.abc import Iterable

from simulator.engine.batch import EngineRequest, Place
from simulator.engine.blocks import BlockAllocator
from simulator.engine.prefix import Prefix
from simulator.engine.shared_blocks import Key, SharedBlocks
from simulator.workload.request import PromptBlocks


class NoSharing:
    """Each request has its blocks to itself, and computes everything."""

    def __init__(self, blocks: BlockAllocator) -> None:
        self.blocks = blocks

    def prefix(self, _request: EngineRequest, _prompt: PromptBlocks | None) -> Prefix | None:
        """Make the keys of a request; None where it can share nothing."""
        return None

    def start(self, request: EngineRequest) -> list[int] | None:
        """Take the blocks a request needs to be admitted; None when there are too few."""
        return self.blocks.allocate(self.blocks.blocks_for(request.total_tokens))

    def note(self, request: EngineRequest, kv_tokens: int) -> None:
        """Note that a request will have KV of so many tokens after this step."""

    def leave(self, request: EngineRequest) -> None:
        """Note that a request is about to lose its blocks."""

    def demand_blocks(self, requests: Iterable[EngineRequest]) -> int:
        """Count the blocks that queued requests will need to start."""
        return sum(self.blocks.blocks_for(request.total_tokens) for request in requests)

    def remaining_tokens(self, request: EngineRequest) -> int:
        """Count what a request must compute before its next token."""
        return request.remaining_tokens


class PrefixCache(NoSharing):
    """Blocks shared by all requests of an engine that begin alike."""

    def __init__(self, blocks: SharedBlocks) -> None:
        super().__init__(blocks)
        self._shared = blocks

    def prefix(self, request: EngineRequest, prompt: PromptBlocks | None) -> Prefix | None:
        """See NoSharing."""
        if prompt is None:
            return None
        return Prefix(prompt, request.prompt_tokens, request.request_id, self.blocks.block_tokens)

    def start(self, request: EngineRequest) -> list[int] | None:
        """See NoSharing; the first of the blocks come with as much KV as is found."""
        needed = self._shared.blocks_for(request.total_tokens)
        found = self._find(request)
        if needed - self._in_use(found) > self._shared.free_blocks:
            return None
        self._shared.share(found)
        fresh = self._shared.allocate(needed - len(found))
        assert fresh is not None
        if request.prefix is not None:
            request.prefix.kept = len(found)
        request.kv_tokens = request.cached_tokens = len(found) * self.blocks.block_tokens
        return found + fresh

    def note(self, request: EngineRequest, kv_tokens: int) -> None:
        """See NoSharing; the content of its full blocks can be found from now on."""
        prefix = request.prefix
        full = kv_tokens // self.blocks.block_tokens
        if prefix is not None and prefix.kept < full:
            keys = prefix.keys(prefix.kept, full)
            self._shared.keep(request.blocks[prefix.kept : full], keys)
            prefix.kept = full

    def leave(self, request: EngineRequest) -> None:
        """See NoSharing; the blocks' content can be found as long as they are free."""
        if request.prefix is not None:
            self.note(request, request.kv_tokens)
            request.prefix.kept = 0

    def demand_blocks(self, requests: Iterable[EngineRequest]) -> int:
        """See NoSharing; blocks in use are not counted, those asked for twice count once."""
        blocks, asked = 0, set[Key]()
        for request in requests:
            blocks += self._shared.blocks_for(request.total_tokens)
            if request.prefix is None:
                continue
            wanted = request.prefix.keys(0, self._findable(request))
            found = self._shared.find(wanted)
            in_use = {
                key
                for key, block in zip(wanted, found, strict=False)
                if self._shared.holders(block) > 0
            }
            blocks -= len(asked.intersection(wanted) | in_use)
            asked.update(wanted)
        return blocks

    def remaining_tokens(self, request: EngineRequest) -> int:
        """See NoSharing; a queued request finds some KV."""
        if request.place is not Place.QUEUED:
            return request.remaining_tokens
        return request.remaining_tokens - len(self._find(request)) * self.blocks.block_tokens

    def _find(self, request: EngineRequest) -> list[int]:
        if request.prefix is None:
            return []
        return self._shared.find(request.prefix.keys(0, self._findable(request)))

    def _findable(self, request: EngineRequest) -> int:
        """The last token is always computed: it yields the next one."""
        return (request.total_tokens - 1) // self.blocks.block_tokens

    def _in_use(self, blocks: Iterable[int]) -> int:
        return sum(self._shared.holders(block) > 0 for block in blocks)


def sharing_of(total_blocks: int, block_tokens: int, *, prefix_caching: bool) -> NoSharing:
    """Make an engine's KV memory, and the rules by which its requests share it."""
    if prefix_caching:
        return PrefixCache(SharedBlocks(total_blocks, block_tokens))
    return NoSharing(BlockAllocator(total_blocks, block_tokens))
