"""What a fake engine answers: hashes chained over KV rows, and tokens read off them."""

import hashlib
from collections.abc import Sequence

ROW_BYTES = 8
VOCABULARY = 50_000


def kv_row(previous: bytes, earlier: bytes, token: int) -> bytes:
    """Compute the KV row of a token."""
    text = previous + earlier + token.to_bytes(4, "little")
    return hashlib.blake2b(text, digest_size=ROW_BYTES).digest()


def earlier_position(position: int) -> int:
    """Choose which earlier row a row also depends on."""
    return (position * 7919) % position if position else 0


def read_token(row: bytes) -> int:
    """Read the next token off a KV row."""
    return int.from_bytes(row, "little") % VOCABULARY


def expected_output(prompt: Sequence[int], max_tokens: int) -> tuple[int, ...]:
    """Say what a request must answer, computed without any block memory."""
    rows: list[bytes] = []
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        for position in range(len(rows), len(tokens)):
            before = rows[position - 1] if position else b""
            earlier = rows[earlier_position(position)] if position > 1 else b""
            rows.append(kv_row(before, earlier, tokens[position]))
        tokens.append(read_token(rows[-1]))
    return tuple(tokens[len(prompt) :])
