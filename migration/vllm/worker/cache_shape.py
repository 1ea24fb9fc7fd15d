"""Where one KV block's bytes lie, in all layers' tensors, whatever the attention backend.

vLLM 0.30 to 0.32 register one view per layer, `[blocks, heads, tokens, content]`, into a common
allocation. Its memory order is the backend's (`KVCacheLayout`: LBHNC on CPUs, LBNHC, LHBNC; BLHNC,
BLNHC and BHLNC keep all layers of a block together), and where a kernel wants smaller blocks than
the manager's, each of these is k of the view's in a row. Before, views were `[2, blocks, ...]`.
Strides describe them all.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, product
from operator import itemgetter
from typing import Any, Self

import torch

from migration.errors import MigrationError

VIEW_DIMS = 4
"""Dimensions of the views that vLLM registers since 0.30, blocks first."""


class LayoutUnknown(MigrationError):  # noqa: N818 (a fact about a server, no failure of ours)
    """These KV caches cannot be copied by block; the message gives the shapes and what to do."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One strided part of every block: that of a layer, or of neighbours in memory. In bytes.

    `dims` are (size, stride) in memory order, the last with stride 1. In a staging slot the same
    bytes are dense, in this order, from `slot_offset` on.
    """

    root: int
    offset: int
    block_stride: int
    dims: tuple[tuple[int, int], ...]
    slot_offset: int = 0

    @property
    def n_bytes(self) -> int:
        """Count its bytes in one block."""
        return math.prod(size for size, _ in self.dims)

    @property
    def is_dense(self) -> bool:
        """Whether its bytes of one block have no gaps."""
        return len(self.dims) == 1

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """List its dense runs of bytes: offset of block 0's, offset in a slot, length."""
        *outer, (length, _) = self.dims
        steps = product(*(range(0, size * stride, stride) for size, stride in outer))
        for number, step in enumerate(steps):
            yield self.offset + sum(step), self.slot_offset + number * length, length


@dataclass(frozen=True)
class CacheShape:
    """All lanes of a set of KV caches, and the allocations they lie in."""

    num_blocks: int
    lanes: tuple[Lane, ...]
    roots: tuple[Any, ...]
    """Each allocation as a flat tensor of bytes."""
    block_bytes: int
    dtype: str
    layer_bytes: Mapping[str, int]
    """Bytes of a block by layer; 0 for a layer that shares another's cache."""
    signature: str
    """Equal on two servers if and only if the bytes of a slot mean the same."""

    @classmethod
    def probe(
        cls, kv_caches: Mapping[str, Any], num_blocks: int, block_dim: int | None = None
    ) -> Self:
        """Find the block dimension of each layer and with it every byte of a block.

        `block_dim` names it for all layers, where the caller knows. LayoutUnknown if it is not
        beyond doubt, or if layers share bytes in another way than entirely.
        """
        if not kv_caches or num_blocks < 1:
            raise LayoutUnknown(f"there is nothing to copy: {len(kv_caches)} layers, {num_blocks=}")
        roots: dict[int, Any] = {}
        seen: dict[Lane, str] = {}
        layer_bytes: dict[str, int] = {}
        described: list[str] = []
        for name, cache in kv_caches.items():
            _check_tensor(name, cache)
            dim = _block_dim(name, cache, num_blocks, block_dim)
            root = _root(roots, cache)
            lane, order = _lane(name, cache, dim, num_blocks, root)
            same_as = seen.setdefault(lane, name)
            layer_bytes[name] = lane.n_bytes if same_as == name else 0
            described.append(f"{name}={same_as}:{cache.dtype}:{order}")
        _check_devices(roots)
        _check_overlap(seen, num_blocks)
        lanes = _placed(_merged(seen))
        return cls(
            num_blocks=num_blocks,
            lanes=lanes,
            roots=tuple(roots.values()),
            block_bytes=sum(lane.n_bytes for lane in lanes),
            dtype="+".join(sorted({str(one.dtype)[6:] for one in kv_caches.values()})),
            layer_bytes=layer_bytes,
            signature=hashlib.blake2b("\n".join(described).encode(), digest_size=16).hexdigest(),
        )

    @property
    def device(self) -> Any:
        """Name the device the caches are on."""
        return self.roots[0].device


def _check_tensor(name: str, cache: Any) -> None:
    if not isinstance(cache, torch.Tensor):
        raise LayoutUnknown(
            f"the KV cache of layer {name} is a {type(cache).__name__}, not one tensor "
            "(a state-space layer, perhaps): such models cannot be moved, "
            "run them without the plugin"
        )
    if cache.ndim < 2 or cache.numel() == 0 or cache.layout != torch.strided:
        raise LayoutUnknown(
            f"the KV cache of layer {name} has shape {tuple(cache.shape)}, which has no dimension "
            "of blocks (raw storage, perhaps): such models cannot be moved"
        )


def _block_dim(name: str, cache: Any, num_blocks: int, given: int | None) -> int:
    shape = tuple(cache.shape)
    fitting = [dim for dim, size in enumerate(shape) if size and size % num_blocks == 0]
    if given is not None and given in fitting:
        return given
    if given is None and len(fitting) == 1:
        return fitting[0]
    if given is None and len(shape) == VIEW_DIMS and 0 in fitting:
        return 0
    where = f"the KV cache of layer {name} has shape {shape}; with {num_blocks} blocks "
    if given is not None:
        raise LayoutUnknown(where + f"dimension {given} cannot be the one of the blocks")
    if not fitting:
        raise LayoutUnknown(where + "no dimension is a multiple of that: this layout is unknown")
    raise LayoutUnknown(
        where + f"dimensions {fitting} could each be that of the blocks: start the server with "
        "another number of blocks (--num-gpu-blocks-override), a prime number is never ambiguous"
    )


def _root(roots: dict[int, Any], cache: Any) -> int:
    """Find or add the allocation a tensor lies in; return its number."""
    storage = cache.untyped_storage()
    address = storage.data_ptr()
    if address not in roots:
        with torch.inference_mode():
            flat = torch.empty(0, dtype=torch.uint8, device=cache.device)
            roots[address] = flat.set_(storage)
    return list(roots).index(address)


def _lane(name: str, cache: Any, dim: int, num_blocks: int, root: int) -> tuple[Lane, str]:
    """Describe a layer's part of a block, and in words which bytes come in which order."""
    item = cache.element_size()
    axes = [
        (stride * item, size, str(axis))
        for axis, (size, stride) in enumerate(zip(cache.shape, cache.stride(), strict=True))
        if axis != dim
    ]
    kernel_stride = cache.stride(dim) * item
    ratio = cache.shape[dim] // num_blocks
    axes.append((kernel_stride, ratio, "k"))
    axes.append((1, item, "b"))
    axes = sorted((axis for axis in axes if axis[1] > 1), reverse=True, key=itemgetter(0))
    dims: list[tuple[int, int]] = []
    for stride, size, _ in axes:
        if dims and dims[-1][1] == size * stride:
            dims[-1] = (dims[-1][0] * size, stride)
        else:
            dims.append((size, stride))
    if not dims or dims[-1][1] != 1:
        dims.append((1, 1))
    lane = Lane(root, cache.storage_offset() * item, kernel_stride * ratio, tuple(dims))
    if lane.block_stride < 1 or any(
        outer[1] < size * stride for outer, (size, stride) in pairwise(lane.dims)
    ):
        raise LayoutUnknown(
            f"the KV cache of layer {name} has shape {tuple(cache.shape)} and strides "
            f"{cache.stride()}: parts of it overlap"
        )
    return lane, ",".join(f"{axis}x{size}" for _, size, axis in axes)


def _check_devices(roots: Mapping[int, Any]) -> None:
    devices = {str(root.device) for root in roots.values()}
    if len(devices) > 1:
        raise LayoutUnknown(f"the KV caches lie on several devices ({', '.join(sorted(devices))})")


def _check_overlap(lanes: Iterable[Lane], num_blocks: int) -> None:
    """Refuse lanes that share bytes: a copied block would hold another block's bytes."""
    pieces = sorted(
        (lane.root, start, length, lane.block_stride)
        for lane in lanes
        for start, _, length in lane.pieces()
    )
    cluster: list[tuple[int, int, int]] = []
    reach = (-1, 0)
    for root, start, length, stride in pieces:
        if root != reach[0] or start >= reach[1]:
            _check_cluster(cluster)
            cluster, reach = [], (root, 0)
        cluster.append((start, length, stride))
        reach = (root, max(reach[1], start + (num_blocks - 1) * stride + length))
    _check_cluster(cluster)


def _check_cluster(pieces: Sequence[tuple[int, int, int]]) -> None:
    """Check runs of bytes whose blocks interleave: all must repeat alike, none may overlap."""
    if not pieces:
        return
    base, _, stride = pieces[0]
    phases = sorted(((start - base) % stride, length) for start, length, _ in pieces)
    phases.append((stride, 0))
    apart = all(begin + length <= after for (begin, length), (after, _) in pairwise(phases))
    if not apart or any(step != stride for _, _, step in pieces):
        raise LayoutUnknown(
            "layers share part of their KV memory in different shapes (a hybrid model, perhaps): "
            "such models are not moved, run them without the plugin"
        )


def _merged(lanes: Iterable[Lane]) -> list[Lane]:
    """Join lanes that follow each other in every block: fewer, larger copies."""
    merged: list[Lane] = []
    for lane in lanes:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.is_dense
            and lane.is_dense
            and (last.root, last.block_stride) == (lane.root, lane.block_stride)
            and last.offset + last.n_bytes == lane.offset
        ):
            merged[-1] = replace(last, dims=((last.n_bytes + lane.n_bytes, 1),))
        else:
            merged.append(lane)
    return merged


def _placed(lanes: Sequence[Lane]) -> tuple[Lane, ...]:
    """Assign each lane its place in a slot, one after the other."""
    starts = accumulate((lane.n_bytes for lane in lanes), initial=0)
    return tuple(
        replace(lane, slot_offset=start) for lane, start in zip(lanes, starts, strict=False)
    )
