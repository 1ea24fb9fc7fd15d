"""Prompt prefixes as numbers: the keys of `simulator.engine.prefix`, without their hashes.

Prompts are given in pieces (`PromptBlocks`), so their prefixes form a tree of pieces. Two blocks
have one key if they end at the same offset of the same piece.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.kernel.state import (
    ALIKE,
    ASKED_AT,
    BLOCK_TOKENS,
    KEY_TOKENS,
    KEYS_AT,
    OWN_KEYS,
    State,
    tell,
)
from simulator.workload.request import ID_BYTES, PromptBlocks, TraceRequest

_Numbers = NDArray[np.int64]


def with_keys(s: State, requests: Sequence[TraceRequest]) -> State:
    """Enter what a workload says about its prompts."""
    block_tokens = int(s.fleet[BLOCK_TOKENS])
    told = [(at, one, one.prompt_blocks) for at, one in enumerate(requests) if one.prompt_blocks]
    sizes = _whole(prompt.block_tokens for _, _, prompt in told)
    shared = _whole(min(one.prompt_tokens, prompt.tokens) for _, one, prompt in told)
    most = _whole((one.prompt_tokens + one.output_tokens) // block_tokens for _, one, _ in told)
    alike = shared // block_tokens
    pieces = -(-alike * block_tokens // sizes)
    starts = np.cumsum(pieces) - pieces
    ids = _ids([prompt for _, _, prompt in told], pieces.tolist())
    keys, distinct = _number(ids, starts, pieces, sizes, block_tokens)
    own = distinct + np.cumsum(most - alike) - most
    s, begins = tell(s, keys)
    s, s.fleet[ASKED_AT] = tell(s, np.zeros(distinct, dtype=np.int64))
    columns = {KEY_TOKENS: sizes, KEYS_AT: begins + starts, ALIKE: alike, OWN_KEYS: own}
    for column, values in columns.items():
        rows = s.req[column]
        for (at, _, _), value in zip(told, values.tolist(), strict=True):
            rows[at] = value
    return s


def _number(
    ids: NDArray[np.uint64],
    starts: _Numbers,
    pieces: _Numbers,
    sizes: _Numbers,
    block_tokens: int,
) -> tuple[_Numbers, int]:
    """Return, per piece, the key of a block that ends in it less the block's number; and the count.

    The tree is built level by level: pieces are equal where they and their predecessors are alike.
    """
    _, content = np.unique(ids, return_inverse=True)
    _, node = np.unique(sizes, return_inverse=True)
    keys, distinct = np.zeros(len(ids), dtype=np.int64), 0
    longest_first = np.argsort(-pieces, kind="stable")
    left = np.sort(pieces)
    for level in range(int(left[-1])):
        here = longest_first[: len(left) - np.searchsorted(left, level, side="right")]
        steps = node[here] * len(ids) + content[starts[here] + level]
        _, example, node[here] = np.unique(steps, return_index=True, return_inverse=True)
        size = sizes[here][example]
        first, end = level * size // block_tokens, (level + 1) * size // block_tokens
        ends = distinct + np.cumsum(end - first)
        keys[starts[here] + level] = (ends - end)[node[here]]
        distinct = int(ends[-1])
    return keys, distinct


def _ids(prompts: Sequence[PromptBlocks], pieces: Sequence[int]) -> NDArray[np.uint64]:
    packed = (
        prompt.packed[: number * ID_BYTES] for prompt, number in zip(prompts, pieces, strict=True)
    )
    return np.frombuffer(b"".join(packed), dtype="<u8")


def _whole(numbers: Any) -> _Numbers:
    return np.fromiter(numbers, dtype=np.int64)
