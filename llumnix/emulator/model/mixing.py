"""The arithmetic of the hash model, one token at a time, shared by `answer` and `kv`.

The KV *row* of token i is a 64-bit hash of the token, its position, the row before it, and two
earlier rows: one anywhere, one near. The next token is read off the last row and a weighted sum
over every STRIDE-th row before it, as attention reads its whole context: a block that was lost,
swapped or left stale anywhere changes the very next token.
"""

from llumnix.emulator.model.vocabulary import END_ID, FIRST_WORD_ID, WORDS

MASK = (1 << 64) - 1
SEED = 0x243F6A8885A308D3
STRIDE = 16
"""A token is read from the rows at its own position modulo this: all rows within STRIDE tokens."""

_NEAR = 32
_END_ONE_IN = 128


def far_index(token: int, position: int) -> int:
    """Choose an earlier position, uniformly; `position` must be positive."""
    spread = (position * 0x9E3779B97F4A7C15 ^ token * 0xBF58476D1CE4E5B9) * 0xD6E8FEB86659FD93
    return (spread & MASK) * position >> 64


def near_index(token: int, position: int) -> int:
    """Choose one of the 32 positions before this one; `position` must be positive."""
    window = position if position < _NEAR else _NEAR
    spread = (position * 0xC2B2AE3D27D4EB4F ^ token * 0x94D049BB133111EB) * 0x9E3779B97F4A7C15
    return position - 1 - ((spread & MASK) * window >> 64)


def mix(token: int, position: int, previous: int, far: int, near: int) -> int:
    """Hash a token and the three earlier rows it depends on into its own row."""
    x = (previous ^ token << 32 ^ position) * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 29
    x = (x + far) * 0x94D049BB133111EB & MASK
    x ^= x >> 32
    x = (x + near) * 0xD6E8FEB86659FD93 & MASK
    return x ^ x >> 29


def weight(position: int) -> int:
    """Weigh a row in the sum by its position, so that swapped rows change it."""
    return 2 * position + 1


def next_token(last_row: int, row_sum: int, *, may_end: bool) -> int:
    """Return the next token: a word, or END_ID about once in 128 times if the text may end."""
    x = mix(END_ID, 0, last_row, row_sum, SEED)
    if may_end and x % _END_ONE_IN == 0:
        return END_ID
    return FIRST_WORD_ID + ((x >> 32) * WORDS >> 32)
