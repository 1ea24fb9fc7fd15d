"""Copies KV blocks between a worker's KV caches and its staging arena.

`make_copier` picks by where the caches are: `HostCopier` here, synchronous and on the caller's
thread; `CudaCopier` (`cuda_copier.py`) on a side stream. Bytes are copied as they are, so any dtype
works.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from migration.errors import MigrationError
from migration.vllm.worker.cache_shape import CacheShape, LayoutUnknown
from migration.vllm.worker.copying import (
    Copier,
    Ticket,
    check_numbers,
    count_slots,
    paired_runs,
    runs,
)

__all__ = ["CacheShape", "Copier", "HostCopier", "LayoutUnknown", "Ticket", "make_copier"]

LARGE_PIECE = 8192
"""Size from which pieces are gathered one by one, not through a temporary array."""


class SelfTestFailed(MigrationError):  # noqa: N818 (a finding, not an accident)
    """A block that went to the arena and back came out different."""


def make_copier(
    kv_caches: Mapping[str, Any],
    num_blocks: int,
    arena_buffer: memoryview,
    block_dim: int | None = None,
) -> Copier:
    """Build the copier for these caches; LayoutUnknown when they cannot be copied by block."""
    shape = CacheShape.probe(kv_caches, num_blocks, block_dim)
    if shape.device.type == "cpu":
        return HostCopier(shape, arena_buffer)
    if shape.device.type != "cuda":
        raise LayoutUnknown(f"KV caches on a {shape.device.type} device are not supported")
    from migration.vllm.worker.cuda_copier import cuda_copier  # only where there is CUDA

    return cuda_copier(shape, arena_buffer)


Pages = np.ndarray[Any, np.dtype[np.void]]


class HostCopier:
    """Copies between host memory and host memory, done when the call returns.

    Each dense run of bytes of a block is one array element, so numpy moves it with one memcpy.
    """

    def __init__(self, shape: CacheShape, arena_buffer: memoryview) -> None:
        self.shape = shape
        self.buffer = arena_buffer
        self.slots = count_slots(shape, arena_buffer)
        self._pages: list[tuple[Pages, Pages]] = [
            (
                np.ndarray(
                    shape.num_blocks,
                    f"V{length}",
                    shape.roots[lane.root].numpy(),
                    offset,
                    lane.block_stride,
                ),
                np.ndarray(self.slots, f"V{length}", arena_buffer, at, shape.block_bytes),
            )
            for lane in shape.lanes
            for offset, at, length in lane.pieces()
        ]

    def gather(self, block_ids: Sequence[int], slots: Sequence[int]) -> Ticket:
        """Copy block i to slot i, now."""
        check_numbers(self, block_ids, slots)
        joint = list(paired_runs(block_ids, slots))
        index = np.asarray(block_ids, np.intp)
        dense = list(runs(slots))
        for cache, arena in self._pages:
            if arena.itemsize >= LARGE_PIECE or len(joint) <= len(dense):
                for block, slot, n in joint:
                    arena[slot : slot + n] = cache[block : block + n]
            else:
                for first, slot, n in dense:
                    arena[slot : slot + n] = cache[index[first : first + n]]
        return Ticket()

    def scatter(self, slots: Sequence[int], block_ids: Sequence[int]) -> Ticket:
        """Copy slot i to block i, now."""
        check_numbers(self, block_ids, slots)
        joint = list(paired_runs(block_ids, slots))
        index = np.asarray(block_ids, np.intp)
        dense = list(runs(slots))
        for cache, arena in self._pages:
            if len(joint) <= len(dense):
                for block, slot, n in joint:
                    cache[block : block + n] = arena[slot : slot + n]
            else:
                for first, slot, n in dense:
                    cache[index[first : first + n]] = arena[slot : slot + n]
        return Ticket()

    def done(self, ticket: Ticket) -> bool:  # noqa: ARG002
        """Whether the copy is complete: copies here are done when they return."""
        return True

    def wait(self, ticket: Ticket) -> None:
        """Return at once."""

    def fence(self, ticket: Ticket) -> None:
        """Return at once: nothing launched later can overtake it."""

    def close(self) -> None:
        """Release the arena."""
        self._pages.clear()


def self_test(copier: Copier) -> None:
    """Send block 0 to slot 0 and back, with other bytes, then its own, and check its neighbour.

    For start-up, while nothing is cached and no slot is taken. Block 0 is unchanged when it ends.
    """
    size = copier.shape.block_bytes
    slot = copier.buffer[:size]
    neighbour = [copier.shape.num_blocks - 1]

    def read(block_ids: Sequence[int]) -> bytes:
        slot[:] = bytes(size)
        copier.wait(copier.gather(block_ids, [0]))
        return bytes(slot)

    def write(content: bytes) -> None:
        slot[:] = content
        copier.wait(copier.scatter([0], [0]))

    before, beside = read([0]), read(neighbour)
    pattern = bytes(byte ^ 0xFF for byte in before)
    write(pattern)
    found = read([0])
    touched = neighbour != [0] and read(neighbour) != beside
    write(before)
    if found != pattern or touched or read([0]) != before:
        raise SelfTestFailed(
            "a KV block that went to the staging memory and back came out different: this "
            f"server's KV cache ({copier.shape.dtype}, {size} bytes a block) cannot be copied"
        )
