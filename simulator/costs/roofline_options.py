"""How close an engine comes to a GPU's roofline, and how it lays out its memory."""

from dataclasses import dataclass
from typing import Literal

from simulator.costs.gpus import GB
from simulator.costs.model_shape import ModelShape

Overlap = Literal["operator", "full", "none"] | float
_USUAL_BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class RooflineOptions:
    """How close an engine comes to the roofline, and how much of the memory it gives to KV.

    The default efficiencies are third-party fits: the prefill utilisation of an H100 in BLIS's
    hardware_config.json, and AIConfigurator's empirical factor of memory bandwidth. `overhead_ns`
    is the CPU's time between steps; it depends on machine and engine, and is 0 unless given.
    `overlap`: "operator" overlaps computation and memory traffic within a group of work, "full"
    across all of a step, communication too (as NanoFlow does), "none" not at all; a number from 0
    to 1 interpolates between "none" and "full". To overlap its parts, an engine cuts a step into
    `nano_batches`, each of which reads the weights and exchanges its results separately. A KV block
    has `block_tokens` (16 unless given), or else as many as fit into a memory page of `page_bytes`,
    where keys and values of each layer have pages of their own (as with vAttention).
    `memory_utilization` is vLLM's default; `reserve_bytes`, for activations and the like, is a
    guess, with which Llama-7B on an A10 gets the KV memory that Llumnix's authors report.
    """

    compute_efficiency: float = 0.45
    memory_efficiency: float = 0.8
    overhead_ns: int = 0
    overlap: Overlap = "operator"
    nano_batches: int = 1
    memory_utilization: float = 0.9
    reserve_bytes: int = GB
    block_tokens: int | None = None
    page_bytes: int | None = None
    network_bytes_per_s: int = 8 * GB

    def __post_init__(self) -> None:
        for name in ("compute_efficiency", "memory_efficiency", "memory_utilization"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be within (0, 1], not {getattr(self, name)}")
        if isinstance(self.overlap, str):
            known = self.overlap in ("operator", "full", "none")
        else:
            known = 0.0 <= self.overlap <= 1.0
        if not known:
            raise ValueError(
                "overlap must be operator, full, none or a number from 0 to 1, not "
                f"{self.overlap!r}"
            )
        if self.block_tokens is not None and self.page_bytes is not None:
            raise ValueError("page_bytes decides the size of a block: leave out block_tokens")
        least = {"overhead_ns": 0, "reserve_bytes": 0}
        for name in (*least, "nano_batches", "block_tokens", "page_bytes", "network_bytes_per_s"):
            value = getattr(self, name)
            if value is not None and value < least.get(name, 1):
                raise ValueError(f"{name} must be {least.get(name, 1)} or more, not {value}")

    def block_tokens_for(self, part: ModelShape) -> int:
        """Tokens per KV block of one GPU's part of a model; raises ValueError if it has none."""
        if self.page_bytes is None:
            return self.block_tokens or _USUAL_BLOCK_TOKENS
        tokens = self.page_bytes // part.kv_row_bytes
        if tokens < 1:
            raise ValueError(
                f"page_bytes {self.page_bytes} holds no token: its keys in one layer take "
                f"{part.kv_row_bytes} bytes"
            )
        return tokens

    def block_bytes_for(self, part: ModelShape) -> int:
        """Bytes of a KV block in all layers, unused page ends included."""
        if self.page_bytes is None:
            return part.kv_bytes_per_token * self.block_tokens_for(part)
        return 2 * part.layers * self.page_bytes
