"""Step costs: the interface, and the linear fit behind most presets. Integer nanoseconds.

Integers, so that skipping k equal steps at once costs exactly as much as stepping them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class CostModel(Protocol):
    """The duration of one engine step.

    An implementation is a pure function of its arguments, never falls when one of them grows, and,
    for a step that only decodes, is piecewise linear in `context_tokens`: k decode steps of a batch
    then have a closed form between knots.
    """

    @property
    def decode_base_ns(self) -> int:
        """Cost of a decode step before its batch and contexts; a scale for delays of steps."""

    def step_ns(
        self, chunks: Iterable[tuple[int, int]], batch_size: int, context_tokens: int
    ) -> int:
        """Cost of a step: prefill `chunks` as (first token, tokens), beside a decode batch.

        `context_tokens` is the sum of the contexts of the `batch_size` decoding requests.
        """

    def prefill_ns(self, tokens: int, squares: int) -> int:
        """Cost of prompt tokens without the base; `squares` sums end² - start² of the chunks."""


def chunk_sums(chunks: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Sum up chunks as their tokens, and end² - start² of each: twice their attention's area."""
    tokens = squares = 0
    for start, count in chunks:
        end = start + count
        tokens += count
        squares += end * end - start * start
    return tokens, squares


@dataclass(frozen=True, slots=True)
class LinearCosts:
    """Linear terms, as fitted to measurements.

    A step that only decodes costs `decode_base + decode_per_context * sum of contexts +
    decode_per_sequence * batch size`. Where prompt tokens are computed too, the base is the larger
    of `decode_base` and the prefill's own cost, which has a term quadratic in the context because
    every new token attends to all before it. That term is small, so it is in picoseconds. A decode
    beside prompts may cost more than among decodes, because memory then no longer bounds the step:
    `prefill_per_sequence` is that extra cost per decode, and part of the prefill's cost. `overhead`
    is added to every step: the CPU time between two of them. Raises ValueError for a negative term.
    """

    prefill_base_ns: int
    prefill_per_token_ns: int
    prefill_quadratic_ps: int
    decode_base_ns: int
    decode_per_context_ns: int
    decode_per_sequence_ns: int
    overhead_ns: int = 0
    prefill_per_sequence_ns: int = 0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")

    def step_ns(
        self, chunks: Iterable[tuple[int, int]], batch_size: int, context_tokens: int
    ) -> int:
        """See CostModel."""
        tokens, squares = chunk_sums(chunks)
        base = self.decode_base_ns
        if tokens:
            beside = self.prefill_per_sequence_ns * batch_size
            base = max(base, self.prefill_base_ns + self.prefill_ns(tokens, squares) + beside)
        extra = self.decode_per_context_ns * context_tokens
        return self.overhead_ns + base + extra + self.decode_per_sequence_ns * batch_size

    def prefill_ns(self, tokens: int, squares: int) -> int:
        """See CostModel."""
        return self.prefill_per_token_ns * tokens + self.prefill_quadratic_ps * squares // 1000


@dataclass(frozen=True, slots=True)
class Preset:
    """A model on a GPU: its step costs, its KV memory, and the link its KV would move over.

    `source` says where the figures come from. `kv_bytes_per_token` and `link_bytes_per_s` are those
    of the real model and machine; they shape migration times in an emulation. `max_num_seqs` and
    `token_budget` are its server's, or else the usual values. With `schedules_ahead` the server
    plans each step while the previous one runs; a request that arrives meanwhile joins the step
    after next.
    """

    name: str
    source: str
    costs: CostModel
    capacity_tokens: int
    block_tokens: int
    max_model_len: int
    kv_bytes_per_token: int
    link_bytes_per_s: int
    max_num_seqs: int = 128
    token_budget: int = 512
    schedules_ahead: bool = False
