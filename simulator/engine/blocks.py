"""Paged KV memory: who owns each block."""

import enum
from collections.abc import Iterable, Sequence
from typing import Protocol


class _Use(enum.IntEnum):
    FREE = 0
    ALLOCATED = 1
    RESERVED = 2


class FreeBlocks(Protocol):
    """The free blocks, in the order in which they are handed out."""

    def __len__(self) -> int: ...

    def take(self, n_blocks: int) -> list[int]:
        """Take this many of the free blocks."""

    def put(self, blocks: Sequence[int]) -> None:
        """Take a request's blocks back, in the order it had them."""


class FreeStack:
    """The block freed last is handed out first, while it may still be in a CPU cache."""

    def __init__(self, total_blocks: int) -> None:
        self._stack = list(range(total_blocks - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._stack)

    def take(self, n_blocks: int) -> list[int]:
        """See FreeBlocks."""
        return [self._stack.pop() for _ in range(n_blocks)]

    def put(self, blocks: Sequence[int]) -> None:
        """See FreeBlocks."""
        self._stack.extend(reversed(blocks))


class BlockAllocator:
    """Hands out block ids: allocated to requests, or reserved for requests migrating in.

    INV-3 holds after every call: allocated + reserved + free = total. All operations cost O(1) per
    block. Freeing a block that is not held that way raises RuntimeError.
    """

    def __init__(
        self, total_blocks: int, block_tokens: int, free: FreeBlocks | None = None
    ) -> None:
        if total_blocks <= 0 or block_tokens <= 0:
            raise ValueError(f"{total_blocks} blocks of {block_tokens} tokens: both must be > 0")
        self.total_blocks = total_blocks
        self.block_tokens = block_tokens
        self.allocated_blocks = 0
        self.reserved_blocks = 0
        self._free = FreeStack(total_blocks) if free is None else free
        self._use = bytearray(total_blocks)

    @property
    def free_blocks(self) -> int:
        """How many blocks are neither allocated nor reserved."""
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold the KV of so many tokens."""
        return -(-tokens // self.block_tokens)

    def allocate(self, n_blocks: int) -> list[int] | None:
        """Take free blocks for a request; None, and nothing taken, when there are too few."""
        return self._take(n_blocks, _Use.ALLOCATED)

    def reserve(self, n_blocks: int) -> list[int] | None:
        """Take free blocks for a migration; None, and nothing taken, when there are too few."""
        return self._take(n_blocks, _Use.RESERVED)

    def free(self, blocks: Sequence[int]) -> None:
        """Free allocated blocks."""
        self._give_back(blocks, _Use.ALLOCATED)

    def unreserve(self, blocks: Sequence[int]) -> None:
        """Free reserved blocks."""
        self._give_back(blocks, _Use.RESERVED)

    def commit(self, blocks: Sequence[int]) -> None:
        """Turn reserved blocks into allocated ones: the request has arrived."""
        self._change(blocks, _Use.RESERVED, _Use.ALLOCATED)
        self.reserved_blocks -= len(blocks)
        self.allocated_blocks += len(blocks)
        self._check()

    def _take(self, n_blocks: int, use: _Use) -> list[int] | None:
        if n_blocks < 0 or n_blocks > len(self._free):
            return None
        taken = self._free.take(n_blocks)
        self._change(taken, _Use.FREE, use)
        self._count(use, n_blocks)
        return taken

    def _give_back(self, blocks: Sequence[int], use: _Use) -> None:
        self._change(blocks, use, _Use.FREE)
        self._free.put(blocks)
        self._count(use, -len(blocks))

    def _claim(self, blocks: Sequence[int]) -> None:
        """Count blocks as allocated that were taken out of the free ones."""
        self._change(blocks, _Use.FREE, _Use.ALLOCATED)
        self._count(_Use.ALLOCATED, len(blocks))

    def _change(self, blocks: Iterable[int], before: _Use, after: _Use) -> None:
        for block in blocks:
            if self._use[block] != before:
                actual = _Use(self._use[block]).name
                raise RuntimeError(f"block {block} is {actual}, not {before.name}")
            self._use[block] = after

    def _count(self, use: _Use, change: int) -> None:
        if use is _Use.ALLOCATED:
            self.allocated_blocks += change
        else:
            self.reserved_blocks += change
        self._check()

    def _check(self) -> None:
        held = self.allocated_blocks + self.reserved_blocks
        assert held + len(self._free) == self.total_blocks, "INV-3: a block leaked"
