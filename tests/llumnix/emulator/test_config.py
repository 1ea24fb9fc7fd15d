"""What an emulated engine can be told, and what it refuses."""

from dataclasses import fields

import pytest

from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.model.kv import KvPool
from policies.types import PriorityClass


def test_the_default_is_llama_7b_on_an_a10() -> None:
    """The paper's: capacity, block, limit and link from the preset."""
    sizes = EmulatorConfig().sizes()
    assert (sizes.capacity_tokens, sizes.block_tokens, sizes.total_blocks) == (13_616, 16, 851)
    assert (sizes.max_model_len, sizes.link_bytes_per_token) == (13_616, 524_288)
    assert sizes.link_bytes_per_s == 8_000_000_000


def test_what_is_set_goes_before_the_preset() -> None:
    """Capacity is rounded down to whole blocks, and the limit to what fits."""
    sizes = EmulatorConfig(capacity_tokens=1_010, block_tokens=32, link_bytes_per_s=0).sizes()
    assert (sizes.capacity_tokens, sizes.max_model_len) == (992, 992)
    assert sizes.link_bytes_per_s == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "h100"}, "unknown cost preset 'h100'"),
        ({"speed": 0.0}, "speed must be positive"),
        ({"capacity_tokens": 100, "max_model_len": 200}, "above the capacity"),
        ({"default_class": "low"}, "not among the classes: high, normal"),
        ({"classes": (PriorityClass("only"),)}, "not among the classes: only"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, object], message: str) -> None:
    """At once, not when the first request comes."""
    with pytest.raises(ValueError, match=message):
        EmulatorConfig(**wrong)  # type: ignore[arg-type]


def test_every_field_says_what_it_is_for() -> None:
    """The command line and the documentation are made from this."""
    for item in fields(EmulatorConfig):
        assert item.metadata["help"]
        assert "unit" in item.metadata


@pytest.mark.parametrize("payload", [0, 4, 12, -8])
def test_a_payload_is_whole_words(payload: int) -> None:
    """Each row holds its hash at least once, and nothing else."""
    with pytest.raises(ValueError, match="multiple of 8"):
        KvPool(4, 16, payload)


def test_a_large_pool_costs_nothing_until_it_is_touched() -> None:
    """All of an A10's KV at 128 KiB a token, of which one row is written."""
    pool = KvPool(851, 16, 131_072)
    table = pool.table()
    table.follow([800])
    pool.compute([1], table, 0, 1)
    assert any(pool.views([800])[0][:8])


def test_touching_it_first_changes_nothing_else() -> None:
    """Zeros, as ever."""
    assert not any(KvPool(4, 16, 8, pretouch=True).views([0, 1, 2, 3])[0])
