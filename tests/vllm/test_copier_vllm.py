"""The copier on the very views that this vLLM's own code makes of a KV cache."""

from typing import Any

import pytest

torch = pytest.importorskip(
    "torch", reason="torch is not installed here: the copier is not tested (make test-vllm does)"
)
interface = pytest.importorskip(
    "vllm.v1.kv_cache_interface", reason="vLLM is not installed here: its layouts are not tested"
)

from migration.vllm.worker.cache_shape import CacheShape  # noqa: E402
from migration.vllm.worker.copier import HostCopier, self_test  # noqa: E402
from tests.vllm.kv_layouts import LAYOUTS, Caches, noise  # noqa: E402

BLOCKS, LAYERS, TOKENS = 7, 3, 64


def _spec(*, latent: bool) -> Any:
    if latent:
        return interface.MLAAttentionSpec(
            block_size=TOKENS, num_kv_heads=1, head_size=72, dtype=torch.bfloat16
        )
    return interface.FullAttentionSpec(
        block_size=TOKENS, num_kv_heads=2, head_size=16, dtype=torch.bfloat16
    )


def _caches(layout: str, kernel_tokens: int, *, latent: bool = False) -> Caches:
    """Lay caches out as the engine would have the worker do it."""
    spec = _spec(latent=latent)
    kind = interface.KVCacheLayout[layout]
    layer_stride, block_stride, *_ = interface.compute_layout_strides(spec, BLOCKS, LAYERS, kind)
    tensor = interface.KVCacheTensor(
        size=spec.page_size_bytes * BLOCKS * LAYERS,
        layers=[f"layers.{number}" for number in range(LAYERS)],
        layer_stride=layer_stride,
        block_stride=block_stride,
    )

    def rebuild(raw: Any) -> dict[str, Any]:
        made = interface.create_kv_cache_views(
            raw.view(torch.int8), spec, BLOCKS, kind, tensor, kernel_block_size=kernel_tokens
        )
        return dict(zip(tensor.layers, made, strict=True))

    raw = noise(tensor.size)
    ratio = TOKENS // kernel_tokens
    return Caches(raw, rebuild(raw), BLOCKS, 0, ratio, rebuild)


def test_the_layouts_tested_elsewhere_are_those_of_this_vllm() -> None:
    assert {one.name: one.value for one in interface.KVCacheLayout} == LAYOUTS


@pytest.mark.parametrize("latent", [False, True], ids=["heads", "latent"])
@pytest.mark.parametrize("kernel_tokens", [64, 16])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_blocks_are_copied_rightly(layout: str, kernel_tokens: int, latent: bool) -> None:
    if kernel_tokens != TOKENS and not (layout.startswith("LB") or (layout == "LHBNC" and latent)):
        pytest.skip("vLLM does not split blocks that are not one dense page")
    caches = _caches(layout, kernel_tokens, latent=latent)
    expected = caches.twin()
    expected.copy_directly([1, 4, 5], [6, 0, 3])
    shape = CacheShape.probe(caches.kv, BLOCKS)
    copier = HostCopier(shape, memoryview(bytearray(4 * shape.block_bytes)))

    assert shape.block_bytes == LAYERS * _spec(latent=latent).page_size_bytes
    self_test(copier)
    copier.gather([1, 4, 5], [2, 0, 1])
    copier.scatter([2, 0, 1], [6, 0, 3])
    assert torch.equal(caches.raw, expected.raw)
