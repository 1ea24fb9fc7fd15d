"""The expected output: the hash model as one pure function, without blocks, steps or engines.

Every output of an emulated fleet is compared with this, token by token.
"""

from collections.abc import Sequence

from llumnix.emulator.model.mixing import (
    MASK,
    SEED,
    STRIDE,
    far_index,
    mix,
    near_index,
    next_token,
    weight,
)
from llumnix.emulator.model.vocabulary import END_ID


def expected_output(
    prompt_token_ids: Sequence[int],
    max_tokens: int,
    ignore_eos: bool = True,
    min_tokens: int = 0,
) -> tuple[int, ...]:
    """Return the tokens that a request must produce, including the end token if it has one."""
    rows: list[int] = []
    sums = [0] * STRIDE
    outputs: list[int] = []
    previous = SEED

    def absorb(token: int) -> int:
        position = len(rows)
        far = rows[far_index(token, position)] if position else 0
        near = rows[near_index(token, position)] if position else 0
        row = mix(token, position, previous, far, near)
        rows.append(row)
        lane = position % STRIDE
        sums[lane] = (sums[lane] + row * weight(position)) & MASK
        return row

    for token in prompt_token_ids:
        previous = absorb(token)
    while len(outputs) < max_tokens:
        may_end = not ignore_eos and len(outputs) >= min_tokens
        token = next_token(previous, sums[(len(rows) - 1) % STRIDE], may_end=may_end)
        outputs.append(token)
        if token == END_ID:
            break
        previous = absorb(token)
    return tuple(outputs)
