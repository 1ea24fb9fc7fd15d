"""Paged KV memory with a prefix cache: shared blocks that keep their content when free.

The rules are those of vLLM's `BlockPool` (`vllm/v1/core/block_pool.py`, 0.32): a block with content
and no user is free, but goes to the far end of the queue of free blocks; its content is lost only
when it reaches the front and is handed out. Blocks without content are handed out first.
"""

from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence

from simulator.engine.blocks import BlockAllocator

Key = bytes
"""Stands for the content of a block and of all blocks before it."""


class FreeQueue:
    """Free blocks in the order in which they lose their content: least recently used first."""

    def __init__(self, blocks: Iterable[int], with_content: Container[int]) -> None:
        self._queue: OrderedDict[int, None] = OrderedDict.fromkeys(blocks)
        self._with_content = with_content

    def __len__(self) -> int:
        return len(self._queue)

    def take(self, n_blocks: int) -> list[int]:
        """Take the first blocks."""
        return [self._queue.popitem(last=False)[0] for _ in range(n_blocks)]

    def put(self, blocks: Sequence[int]) -> None:
        """Take a request's blocks back: its last ones are reused first, for fewer prompts share
        them.

        Blocks without content go to the front, before all others.
        """
        for block in reversed(blocks):
            if block in self._with_content:
                self._queue[block] = None
        for block in blocks:
            if block not in self._with_content:
                self._queue[block] = None
                self._queue.move_to_end(block, last=False)

    def remove(self, block: int) -> None:
        """Take a block out of the middle: its content is wanted again."""
        del self._queue[block]


class SharedBlocks(BlockAllocator):
    """Blocks that several requests may hold at once; they count as allocated once (INV-3).

    `find`, `share` and `keep` are the cache: content kept under a key is found by it until the
    block is handed out for something else.
    """

    def __init__(self, total_blocks: int, block_tokens: int) -> None:
        self._key_of: dict[int, Key] = {}
        # Requests that compute the same content at the same time keep one block each.
        self._blocks_of: dict[Key, list[int]] = {}
        self._holders = [0] * max(0, total_blocks)
        super().__init__(
            total_blocks, block_tokens, queue := FreeQueue(range(total_blocks), self._key_of)
        )
        self._queue = queue

    def holders(self, block: int) -> int:
        """How many requests hold a block; 0 for one that is free or reserved."""
        return self._holders[block]

    def find(self, keys: Iterable[Key]) -> list[int]:
        """Find the blocks with the longest prefix of this content."""
        found = []
        for key in keys:
            blocks = self._blocks_of.get(key)
            if not blocks:
                break
            found.append(blocks[0])
        return found

    def share(self, blocks: Sequence[int]) -> None:
        """Add a holder to blocks that were just found; free ones are no longer free."""
        idle = [block for block in blocks if not self._holders[block]]
        for block in idle:
            self._queue.remove(block)
        self._claim(idle)
        for block in blocks:
            self._holders[block] += 1

    def keep(self, blocks: Sequence[int], keys: Sequence[Key]) -> None:
        """Record the content of held blocks; each has one content while it is held."""
        for block, key in zip(blocks, keys, strict=True):
            assert self._holders[block], f"block {block} is not held: it has no content to keep"
            if block not in self._key_of:
                self._key_of[block] = key
                self._blocks_of.setdefault(key, []).append(block)

    def allocate(self, n_blocks: int) -> list[int] | None:
        """See BlockAllocator; any content of the blocks is lost."""
        taken = super().allocate(n_blocks)
        self._forget(taken or ())
        for block in taken or ():
            assert not self._holders[block], f"block {block} was handed out while in use"
            self._holders[block] = 1
        return taken

    def reserve(self, n_blocks: int) -> list[int] | None:
        """See BlockAllocator; any content of the blocks is lost."""
        taken = super().reserve(n_blocks)
        self._forget(taken or ())
        return taken

    def commit(self, blocks: Sequence[int]) -> None:
        """See BlockAllocator."""
        super().commit(blocks)
        for block in blocks:
            self._holders[block] = 1

    def free(self, blocks: Sequence[int]) -> None:
        """Remove a holder from each; an unheld block is free, its content not yet lost."""
        idle = []
        for block in blocks:
            if self._holders[block] <= 0:
                raise RuntimeError(f"block {block} is freed, but not held")
            self._holders[block] -= 1
            if not self._holders[block]:
                idle.append(block)
        super().free(idle)

    def _forget(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            key = self._key_of.pop(block, None)
            if key is not None:
                others = self._blocks_of[key]
                others.remove(block)
                if not others:
                    del self._blocks_of[key]
