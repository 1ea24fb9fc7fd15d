"""KV caches as vLLM's attention backends lay them out, small and full of noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

LAYOUTS = {
    "LBHNC": (0, 1, 2, 3, 4),
    "LBNHC": (0, 1, 3, 2, 4),
    "LHBNC": (0, 2, 1, 3, 4),
    "BLHNC": (1, 0, 2, 3, 4),
    "BLNHC": (1, 0, 3, 2, 4),
    "BHLNC": (1, 2, 0, 3, 4),
}
"""Memory orders of [layers, blocks, heads, tokens, content], as vllm/v1/kv_cache_layout.py has."""


@dataclass(frozen=True)
class Caches:
    """Layers' views into one allocation. `ratio` of a view's blocks make one of the manager's."""

    raw: Any
    kv: Mapping[str, Any]
    num_blocks: int
    dim: int = 0
    ratio: int = 1
    rebuild: Callable[[Any], Mapping[str, Any]] = field(default=lambda raw: {}, repr=False)

    def twin(self) -> "Caches":
        """Copy it: same bytes, other memory."""
        raw = self.raw.clone()
        return Caches(raw, self.rebuild(raw), self.num_blocks, self.dim, self.ratio, self.rebuild)

    def block(self, number: int) -> dict[str, Any]:
        """View a block of the manager's in every layer."""
        return {
            name: view.narrow(self.dim, number * self.ratio, self.ratio)
            for name, view in self.kv.items()
        }

    def copy_directly(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy blocks the plain way: layer by layer, by logical indices."""
        held = [{name: part.clone() for name, part in self.block(one).items()} for one in sources]
        for parts, destination in zip(held, destinations, strict=True):
            for name, part in self.block(destination).items():
                part.view(torch.uint8).copy_(parts[name].view(torch.uint8))


def noise(n_bytes: int, seed: int = 0) -> Any:
    """Draw random bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n_bytes,), dtype=torch.uint8, generator=generator)


def views(
    order: str = "LBHNC",
    *,
    layers: int = 3,
    num_blocks: int = 7,
    heads: int = 2,
    tokens: int = 4,
    content: int = 6,
    dtype: Any = torch.bfloat16,
    ratio: int = 1,
    page_padding: int = 0,
    offset: int = 0,
    seed: int = 0,
) -> Caches:
    """Build what vLLM 0.30 and later register: [blocks * ratio, heads, tokens, content] a layer.

    `page_padding` elements follow each block (layouts with whole pages only).
    """
    shape = (layers, num_blocks * ratio, heads, tokens, content)
    strides, step = [0] * 5, 1
    for axis in reversed(LAYOUTS[order]):
        strides[axis] = step
        step *= shape[axis]
        if page_padding and step == heads * tokens * content:
            step += page_padding
    item = torch.empty(0, dtype=dtype).element_size()

    def rebuild(raw: Any) -> dict[str, Any]:
        whole = raw.view(dtype).as_strided(shape, strides, offset)
        return {f"layers.{number}.attn": whole[number] for number in range(layers)}

    raw = noise((step + offset) * item, seed)
    return Caches(raw, rebuild(raw), num_blocks, 0, ratio, rebuild)


def halves(*, layers: int = 2, num_blocks: int = 7, dtype: Any = torch.float32) -> Caches:
    """Build what backends registered before: keys and values first, blocks second."""
    shape = (2, num_blocks, 4, 2, 8)
    size = 2 * num_blocks * 4 * 2 * 8

    def rebuild(raw: Any) -> dict[str, Any]:
        parts = raw.view(dtype).view(layers, size)
        return {f"layers.{number}": parts[number].view(shape) for number in range(layers)}

    raw = noise(layers * size * torch.empty(0, dtype=dtype).element_size())
    return Caches(raw, rebuild(raw), num_blocks, 1, 1, rebuild)
