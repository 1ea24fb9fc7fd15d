"""Where a block's bytes lie: found for every layout, refused where it is not beyond doubt."""

from typing import Any

import pytest

torch = pytest.importorskip(
    "torch", reason="torch is not installed here: layouts are not tested (make test-vllm does)"
)

from migration.vllm.worker.cache_shape import CacheShape, LayoutUnknown  # noqa: E402
from tests.vllm.kv_layouts import views  # noqa: E402


def test_layouts_that_differ_in_a_slot_differ_in_their_signature() -> None:
    caches = [
        views(),
        views("LBNHC"),
        views(dtype=torch.float16),
        views(heads=4, tokens=2),
        views(ratio=2, tokens=2),
        views(layers=2),
    ]
    signatures = {CacheShape.probe(one.kv, one.num_blocks).signature for one in caches}

    assert len(signatures) == len(caches)


def test_layouts_alike_in_a_slot_share_a_signature() -> None:
    """Packing layers block by block moves whole pages, not bytes within them."""
    packed, spread = views("BLHNC"), views("LBHNC", page_padding=2)

    assert CacheShape.probe(packed.kv, 7).signature == CacheShape.probe(spread.kv, 7).signature


def test_layers_packed_by_block_are_copied_as_one() -> None:
    shape = CacheShape.probe(views("BLHNC").kv, 7)

    assert len(shape.lanes) == 1
    assert shape.lanes[0].dims == ((shape.block_bytes, 1),)
    assert set(shape.layer_bytes.values()) == {shape.block_bytes // 3}


def test_layers_that_share_a_cache_are_copied_once() -> None:
    caches = views(layers=2)
    kv = {**caches.kv, "layers.2.attn": caches.kv["layers.0.attn"]}
    shape = CacheShape.probe(kv, 7)

    assert shape.block_bytes == CacheShape.probe(caches.kv, 7).block_bytes
    assert shape.layer_bytes["layers.2.attn"] == 0
    assert shape.signature != CacheShape.probe(caches.kv, 7).signature


def test_the_shape_tells_sizes_and_dtype() -> None:
    shape = CacheShape.probe(views().kv, 7)

    assert shape.block_bytes == 3 * 2 * 4 * 6 * 2
    assert shape.dtype == "bfloat16"
    assert shape.device.type == "cpu"
    mixed = {**views().kv, "index": torch.zeros(7, 3, dtype=torch.uint8)}
    assert CacheShape.probe(mixed, 7).dtype == "bfloat16+uint8"


def _overlay() -> dict[str, Any]:
    raw = torch.zeros(7 * 96, dtype=torch.uint8)
    return {"full": raw.view(7, 96), "sliding": raw[: 7 * 48].view(7, 48)}


@pytest.mark.parametrize(
    ("kv", "says"),
    [
        ({}, "nothing to copy"),
        ({"a": [torch.zeros(7, 2)]}, "a list, not one tensor"),
        ({"a": torch.zeros(70)}, r"shape \(70,\)"),
        ({"a": torch.zeros(6, 5)}, "no dimension is a multiple"),
        ({"a": torch.zeros(2, 7, 7)}, r"dimensions \[1, 2\] could each"),
        ({"a": torch.zeros(1, 6).expand(7, 6)}, "overlap"),
        ({"a": torch.zeros(7, 1, 6).expand(7, 4, 6)}, "overlap"),
        ({"a": torch.zeros(40).as_strided((7, 8), (4, 1))}, "in different shapes"),
        (_overlay(), "in different shapes"),
        ({"a": torch.zeros(7, 2), "b": torch.zeros(7, 2, device="meta")}, "several devices"),
    ],
)
def test_what_cannot_be_copied_by_block_is_refused(kv: dict[str, Any], says: str) -> None:
    with pytest.raises(LayoutUnknown, match=says):
        CacheShape.probe(kv, 7)


def test_a_doubtful_dimension_can_be_named() -> None:
    cache = {"a": torch.arange(2 * 7 * 7).view(2, 7, 7)}
    shape = CacheShape.probe(cache, 7, block_dim=1)

    assert shape.lanes[0].block_stride == 7 * 8
    with pytest.raises(LayoutUnknown, match="dimension 0 cannot"):
        CacheShape.probe(cache, 7, block_dim=0)


def test_a_view_as_vllm_registers_it_has_its_blocks_first() -> None:
    """Small caches for tests have as many blocks as a block has tokens."""
    shape = CacheShape.probe(views(num_blocks=4, tokens=4).kv, 4)

    assert shape.lanes[0].block_stride == 2 * 4 * 6 * 2
