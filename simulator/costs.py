"""What a step costs: three-term linear fits, in integer nanoseconds, and presets with their source.

Integers, so that skipping k equal steps at once will cost exactly what stepping them would.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostModel:
    """The duration of one engine step.

    A step that only decodes costs `decode_base + decode_per_context * sum of contexts +
    decode_per_sequence * batch size`. Where prompt tokens are computed too, the base is the larger
    of `decode_base` and the prefill's own cost, which has a term quadratic in the context because
    every new token attends to all before it. That term is in picoseconds: it is small.
    """

    prefill_base_ns: int
    prefill_per_token_ns: int
    prefill_quadratic_ps: int
    decode_base_ns: int
    decode_per_context_ns: int
    decode_per_sequence_ns: int

    def step_ns(
        self, chunks: Iterable[tuple[int, int]], batch_size: int, context_tokens: int
    ) -> int:
        """Cost of a step: prefill `chunks` as (first token, tokens), beside a decode batch.

        `context_tokens` is the sum of the contexts of the `batch_size` decoding requests.
        """
        tokens = squares = 0
        for start, count in chunks:
            end = start + count
            tokens += count
            squares += end * end - start * start
        base = self.decode_base_ns
        if tokens:
            base = max(base, self.prefill_base_ns + self.prefill_ns(tokens, squares))
        extra = self.decode_per_context_ns * context_tokens
        return base + extra + self.decode_per_sequence_ns * batch_size

    def prefill_ns(self, tokens: int, squares: int) -> int:
        """Cost of prompt tokens without the base; `squares` sums end² - start² of the chunks."""
        return self.prefill_per_token_ns * tokens + self.prefill_quadratic_ps * squares // 1000


@dataclass(frozen=True, slots=True)
class Preset:
    """A model on a GPU: its step costs, its KV memory, and the link its KV would move over.

    `source` says where the figures come from. `kv_bytes_per_token` and `link_bytes_per_s` are what
    the real model and machine have; they shape migration times in an emulation.
    """

    name: str
    source: str
    costs: CostModel
    capacity_tokens: int
    block_tokens: int
    max_model_len: int
    kv_bytes_per_token: int
    link_bytes_per_s: int


_PRESETS = (
    Preset(
        name="llama-7b-a10",
        source="Llumnix (OSDI'24) artifact figures, decoded: prefill from the recompute curve of "
        "fig. 10 (58/110/220/436/940/1995 ms at 256..8k tokens), decode from its six points at 8k "
        "tokens in all (52.0..43.3 ms at batch 32..1). The split of the decode step between its "
        "constant and its context term is a guess from memory bandwidth, not measured. fp16 KV, "
        "64 Gb/s network.",
        costs=CostModel(
            prefill_base_ns=5_000_000,
            prefill_per_token_ns=205_000,
            prefill_quadratic_ps=4_600,
            decode_base_ns=34_000_000,
            decode_per_context_ns=1_100,
            decode_per_sequence_ns=280_000,
        ),
        capacity_tokens=13_616,
        block_tokens=16,
        max_model_len=13_616,
        kv_bytes_per_token=524_288,
        link_bytes_per_s=8_000_000_000,
    ),
    Preset(
        name="toy",
        source="Invented: small and fast, for tests.",
        costs=CostModel(
            prefill_base_ns=500_000,
            prefill_per_token_ns=10_000,
            prefill_quadratic_ps=100,
            decode_base_ns=1_000_000,
            decode_per_context_ns=100,
            decode_per_sequence_ns=10_000,
        ),
        capacity_tokens=2_048,
        block_tokens=16,
        max_model_len=1_024,
        kv_bytes_per_token=64,
        link_bytes_per_s=1_000_000_000,
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _PRESETS}


def preset(name: str) -> Preset:
    """Look up a preset; raises ValueError naming the choices when there is none of that name."""
    try:
        return PRESETS[name]
    except KeyError:
        choices = ", ".join(sorted(PRESETS))
        raise ValueError(f"unknown cost preset {name!r}; choose one of {choices}") from None
