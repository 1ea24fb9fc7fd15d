"""The emulated KV cache: real bytes in real blocks, and output that depends on each of them.

Each token's row holds its 64-bit hash in every word of its payload. Rows are computed and tokens
are read from what is stored; nothing is kept beside it.
"""

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from llumnix.emulator.model.mixing import (
    SEED,
    STRIDE,
    far_index,
    mix,
    near_index,
    next_token,
    weight,
)

_WORD_BYTES = 8
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)  # Linux only
_WORD_STEP = 0x9E3779B1  # a large odd number: strides over a payload's words


class KvPool:
    """One big buffer of blocks; the system backs it with memory only where it is touched.

    With `pretouch` all of it is touched at once: first touches of a large payload are slow, and a
    real engine has its KV cache from the start. Raises ValueError unless the payload is a positive
    multiple of 8 bytes per token.
    """

    def __init__(
        self,
        total_blocks: int,
        block_tokens: int,
        payload_bytes_per_token: int,
        *,
        pretouch: bool = False,
    ) -> None:
        if payload_bytes_per_token < _WORD_BYTES or payload_bytes_per_token % _WORD_BYTES:
            raise ValueError(
                f"kv_payload_bytes_per_token must be a multiple of {_WORD_BYTES}, "
                f"not {payload_bytes_per_token}"
            )
        self.block_tokens = block_tokens
        self.block_bytes = block_tokens * payload_bytes_per_token
        self._row_words = payload_bytes_per_token // _WORD_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_POPULATE if pretouch else 0)
        self._raw = memoryview(mmap.mmap(-1, total_blocks * self.block_bytes, flags=flags))
        self._words = self._raw.cast("Q")
        self._array = np.frombuffer(self._raw, dtype=np.uint64)
        positions = np.arange(total_blocks * block_tokens, dtype=np.uint64)
        self._weights = weight_of(positions)

    def table(self) -> "BlockTable":
        """Return an empty block table for a request's KV in this pool."""
        return BlockTable(self.block_tokens, self._row_words)

    def compute(self, tokens: Sequence[int], table: "BlockTable", start: int, stop: int) -> None:
        """Compute and store the rows of tokens [start, stop), from the rows stored before them."""
        words, base, row_words = self._words, table.rows, self._row_words
        for position in range(start, stop):
            token = tokens[position]
            word = position * _WORD_STEP % row_words
            if position:
                row = mix(
                    token,
                    position,
                    words[base[position - 1] + word],
                    words[base[far_index(token, position)] + word],
                    words[base[near_index(token, position)] + word],
                )
            else:
                row = mix(token, 0, SEED, 0, 0)
            first = base[position]
            self._array[first : first + row_words] = row

    def next_token(self, table: "BlockTable", length: int, *, may_end: bool) -> int:
        """Read the token that follows the first `length` tokens off their stored rows."""
        word = length * _WORD_STEP % self._row_words
        lane = (length - 1) % STRIDE
        rows = self._array.take(table.row_array[lane:length:STRIDE] + word)
        row_sum = int(np.dot(rows, self._weights[lane:length:STRIDE]))
        return next_token(int(rows[-1]), row_sum, may_end=may_end)

    def views(self, blocks: Sequence[int]) -> list[memoryview]:
        """Return writable views of blocks, in order; adjacent blocks share one view."""
        size = self.block_bytes
        return [self._raw[first * size : last * size] for first, last in _runs(blocks)]


class BlockTable:
    """The start of each token's row of one request, in words from the start of the pool.

    `rows` and `row_array` hold the same: a list is fast for single rows, an array for many at once.
    The array is longer than the request, so that it grows in place.
    """

    def __init__(self, block_tokens: int, row_words: int) -> None:
        self.rows: list[int] = []
        self.row_array: npt.NDArray[np.int64] = np.empty(256, dtype=np.int64)
        self._block_tokens = block_tokens
        self._row_words = row_words
        self._blocks = 0

    def follow(self, blocks: Sequence[int]) -> None:
        """Add the blocks that the request got since the last call."""
        if len(blocks) == self._blocks:
            return
        known = len(self.rows)
        size = self._block_tokens * self._row_words
        for block in blocks[self._blocks :]:
            self.rows.extend(range(block * size, (block + 1) * size, self._row_words))
        self._blocks = len(blocks)
        if len(self.rows) > len(self.row_array):
            self.row_array = np.resize(self.row_array, 2 * len(self.rows))
        self.row_array[known : len(self.rows)] = self.rows[known:]


def weight_of(positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the weights of many positions at once."""
    return positions * np.uint64(weight(1) - weight(0)) + np.uint64(weight(0))


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Merge consecutive block ids into [first, last) runs."""
    first = last = None
    for block in blocks:
        if last is not None and block == last:
            last += 1
            continue
        if first is not None and last is not None:
            yield first, last
        first, last = block, block + 1
    if first is not None and last is not None:
        yield first, last
