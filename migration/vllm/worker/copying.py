"""What every copier shares: its interface, its tickets, and runs of consecutive numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from migration.vllm.worker.cache_shape import CacheShape


@dataclass(slots=True)
class Ticket:
    """A copy under way. `event` is the device's; `finish` is what is left to do on the host."""

    event: Any = None
    finish: Callable[[], None] | None = None


class Copier(Protocol):
    """Gathers blocks into slots and scatters slots into blocks, in order. For one thread only.

    Bad numbers raise ValueError before anything is copied.
    """

    shape: CacheShape
    slots: int
    buffer: memoryview

    def gather(self, block_ids: Sequence[int], slots: Sequence[int]) -> Ticket:
        """Copy block i to slot i, as the blocks are after the work launched so far."""

    def scatter(self, slots: Sequence[int], block_ids: Sequence[int]) -> Ticket:
        """Copy slot i to block i, once the work launched so far no longer needs the blocks."""

    def done(self, ticket: Ticket) -> bool:
        """Whether the copy and all before it are complete, without waiting."""

    def wait(self, ticket: Ticket) -> None:
        """Wait until the copy and all before it are complete."""

    def fence(self, ticket: Ticket) -> None:
        """Make what is launched from now on wait for the copy, on the device, not here."""

    def close(self) -> None:
        """Wait for all copies and release the arena."""


def count_slots(shape: CacheShape, buffer: memoryview) -> int:
    """Count the slots that an arena has for blocks of this shape."""
    slots, rest = divmod(buffer.nbytes, shape.block_bytes)
    if rest or not slots or buffer.readonly:
        raise ValueError(
            f"{buffer.nbytes} writable bytes are needed to be slots of {shape.block_bytes}"
        )
    return slots


def check_numbers(copier: Copier, block_ids: Sequence[int], slots: Sequence[int]) -> None:
    """Raise ValueError unless these are as many distinct blocks as slots, all in range."""
    if len(block_ids) != len(slots):
        raise ValueError(f"{len(block_ids)} blocks and {len(slots)} slots")
    for what, numbers, limit in (
        ("block", block_ids, copier.shape.num_blocks),
        ("slot", slots, copier.slots),
    ):
        if any(not 0 <= number < limit for number in numbers):
            raise ValueError(f"a {what} number is outside 0..{limit - 1}")
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"a {what} number occurs twice")


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Split into runs of consecutive numbers: index of the first, first number, length."""
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = list(group)
        yield *members[0], len(members)


def paired_runs(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Split into runs in which both go up by one: the first numbers of each, length."""
    pairs = zip(first, second, strict=True)
    for _, group in groupby(enumerate(pairs), lambda one: (one[1][0] - one[0], one[1][1] - one[0])):
        members = [pair for _, pair in group]
        yield *members[0], len(members)
