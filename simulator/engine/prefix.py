"""Prompt prefixes: a key for every full block, by which equal beginnings are recognised."""

import hashlib

from simulator.engine.shared_blocks import Key
from simulator.workload.request import ID_BYTES, PromptBlocks

_KEY_BYTES = 16


class Prefix:
    """The keys of a request's full blocks, made when they are asked for.

    `kept` counts the blocks whose content is already recorded.
    """

    __slots__ = ("_block_tokens", "_keys", "_owner", "_prompt", "_shared_tokens", "kept")

    def __init__(
        self, prompt: PromptBlocks, prompt_tokens: int, owner: str, block_tokens: int
    ) -> None:
        self.kept = 0
        self._prompt = prompt
        self._shared_tokens = min(prompt_tokens, prompt.tokens)
        self._owner = b"of " + owner.encode()
        self._block_tokens = block_tokens
        self._keys: list[Key] = []

    def keys(self, first: int, end: int) -> list[Key]:
        """Return the keys of blocks `first` to `end`, exclusive."""
        while len(self._keys) < end:
            number = len(self._keys)
            before = self._keys[-1] if number else b"%d tokens" % self._prompt.block_tokens
            digest = hashlib.blake2b(before + self._content(number), digest_size=_KEY_BYTES)
            self._keys.append(digest.digest())
        return self._keys[first:end]

    def _content(self, number: int) -> bytes:
        start = number * self._block_tokens
        end = start + self._block_tokens
        if end > self._shared_tokens:
            return self._owner
        size = self._prompt.block_tokens
        return self._prompt.packed[start // size * ID_BYTES : -(-end // size) * ID_BYTES]
