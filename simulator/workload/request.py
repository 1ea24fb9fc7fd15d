"""One request of a workload: when it arrives and how long it is."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ID_BYTES = 8


class WorkloadError(Exception):
    """A trace, profile or generator cannot be used; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class PromptBlocks:
    """What is known of a prompt's content: an id for every `block_tokens` tokens of it.

    Within a workload, prompts that begin with equal ids begin with equal tokens. `packed` holds the
    ids in `ID_BYTES` bytes each: long traces have millions.
    """

    block_tokens: int
    packed: bytes

    @classmethod
    def of(cls, block_tokens: int, ids: Sequence[int]) -> "PromptBlocks":
        """Pack ids, each 0 or more and below 2^64; raises ValueError for others."""
        if block_tokens < 1:
            raise ValueError(f"a block has at least one token, not {block_tokens}")
        try:
            return cls(block_tokens, struct.pack(f"<{len(ids)}Q", *ids))
        except struct.error as error:
            raise ValueError(f"ids of blocks must be 0 or more and below 2^64: {error}") from error

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids, in order."""
        return struct.unpack(f"<{len(self.packed) // ID_BYTES}Q", self.packed)

    @property
    def tokens(self) -> int:
        """The most tokens of the prompt they stand for."""
        return len(self.packed) // ID_BYTES * self.block_tokens


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """A request to come: `arrival_s` after the start of the workload, lengths in tokens.

    `class_name` is its priority class, `tenant` who pays (empty: unknown). `prompt_blocks` tells
    which prompts begin alike, where that is known. Raises ValueError for a negative or non-finite
    arrival and for lengths below one.
    """

    index: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    class_name: str = "normal"
    tenant: str = ""
    prompt_blocks: PromptBlocks | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.arrival_s < float("inf"):
            raise ValueError(f"arrival_s must be 0 or more, not {self.arrival_s}")
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError(
                "a request has at least one prompt and one output token, "
                f"not {self.prompt_tokens} and {self.output_tokens}"
            )
