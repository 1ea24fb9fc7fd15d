"""Unpacking: what was packed comes out, and nothing makes it take more than its bounds."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.bodies.unpack import Bounds, Corrupt, TooLarge, unpack

WIDE = Bounds(limit_bytes=32 * 2**20, expansion_limit=200)


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


ALL: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare),
]


@given(st.binary(max_size=5000), st.integers(0, 2), st.integers(1, 3))
def test_what_was_packed_comes_out(data: bytes, which: int, repeats: int) -> None:
    encoding, pack = ALL[which]
    assert unpack(pack(data * repeats), encoding, WIDE) == data * repeats


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_a_gzip_file_of_several_members_is_their_sum(parts: list[bytes]) -> None:
    packed = b"".join(gzip.compress(part) for part in parts)
    assert unpack(packed, "gzip", WIDE) == b"".join(parts)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_body_that_is_cut_off_is_refused(data: bytes, draw: st.DataObject) -> None:
    packed = gzip.compress(data)
    cut = draw.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(Corrupt):
        unpack(packed[:cut], "gzip", WIDE)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_unpacked_but_never_crashes(data: bytes) -> None:
    for encoding in ("gzip", "deflate"):
        try:
            unpack(data, encoding, WIDE)
        except (Corrupt, TooLarge):
            continue


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_stopped_at_its_bound_not_after_it(encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(bytes(64 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            unpack(bomb, encoding, Bounds(limit_bytes=4 * 2**20, expansion_limit=10**9))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


def test_the_ratio_is_bounded_too_but_not_for_small_bodies() -> None:
    """A megabyte of spaces is odd, not dangerous."""
    packed = gzip.compress(b" " * 2**20)
    assert len(unpack(packed, "gzip", WIDE)) == 2**20
    with pytest.raises(TooLarge):
        unpack(gzip.compress(b" " * (2**20 + 1)), "gzip", WIDE)


def test_members_without_content_do_not_loop() -> None:
    assert unpack(gzip.compress(b"") * 1000, "gzip", WIDE) == b""
