"""KV blocks through the arena: every layout and dtype, and what must be refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="torch is not installed here: the copier is not tested (make test-vllm does)"
)

from migration.vllm.worker.cache_shape import CacheShape, LayoutUnknown  # noqa: E402
from migration.vllm.worker.copier import (  # noqa: E402
    Copier,
    HostCopier,
    SelfTestFailed,
    Ticket,
    make_copier,
    self_test,
)
from migration.vllm.worker.copying import paired_runs, runs  # noqa: E402
from migration.vllm.worker.cuda_copier import DeviceCopier  # noqa: E402
from tests.vllm.host_streams import HostStreams  # noqa: E402
from tests.vllm.kv_layouts import LAYOUTS, Caches, halves, views  # noqa: E402

Make = Callable[[Caches, int], Copier]


def _host(caches: Caches, slots: int) -> Copier:
    shape = CacheShape.probe(caches.kv, caches.num_blocks)
    return HostCopier(shape, memoryview(bytearray(slots * shape.block_bytes)))


def _device(*, pinnable: bool) -> Make:
    def make(caches: Caches, slots: int) -> Copier:
        shape = CacheShape.probe(caches.kv, caches.num_blocks)
        buffer = memoryview(bytearray(slots * shape.block_bytes))
        chunk = 2 * shape.block_bytes  # so that several chunks are needed
        return DeviceCopier(shape, buffer, HostStreams(pinnable=pinnable), chunk)

    return make


COPIERS = {
    "host": _host,
    "device, pinned": _device(pinnable=True),
    "device, bounce": _device(pinnable=False),
}
CASES: dict[str, Callable[[], Caches]] = {
    **{order: lambda order=order: views(order) for order in LAYOUTS},  # type: ignore[misc]
    "kernel blocks": lambda: views("LBHNC", ratio=4),
    "kernel blocks, tokens first": lambda: views("LBNHC", ratio=2),
    "kernel blocks, heads outside": lambda: views("LHBNC", ratio=2),
    "padded pages": lambda: views("LBHNC", page_padding=5),
    "not at the start": lambda: views("BLNHC", offset=3),
    "one layer, one head": lambda: views("LBHNC", layers=1, heads=1),
    "large pages": lambda: views("LBHNC", tokens=64, content=128),
    "fp32": lambda: views(dtype=torch.float32),
    "fp16": lambda: views(dtype=torch.float16),
    "fp8": lambda: views(dtype=torch.float8_e4m3fn),
    "bytes, odd": lambda: views(dtype=torch.uint8, content=5, tokens=3),
    "keys and values first": halves,
    "keys and values first, fp8": lambda: halves(dtype=torch.float8_e5m2),
}


@pytest.fixture(name="make", params=COPIERS)
def _make(request: pytest.FixtureRequest) -> Make:
    return COPIERS[request.param]


def _move(copier: Copier, sources: list[int], slots: list[int], destinations: list[int]) -> None:
    copier.wait(copier.gather(sources, slots))
    copier.wait(copier.scatter(slots, destinations))


@pytest.mark.parametrize("case", CASES)
def test_gather_then_scatter_is_a_direct_copy(case: str, make: Make) -> None:
    caches = CASES[case]()
    expected = caches.twin()
    expected.copy_directly([0, 1, 5, 2], [3, 4, 6, 0])

    _move(make(caches, 6), [0, 1, 5, 2], [1, 2, 3, 5], [3, 4, 6, 0])

    assert torch.equal(caches.raw, expected.raw), "not a byte besides is touched either"


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_layout_any_blocks(data: st.DataObject) -> None:
    order = data.draw(st.sampled_from(sorted(LAYOUTS)))
    small = st.integers(1, 4)
    caches = views(
        order,
        layers=data.draw(small),
        num_blocks=data.draw(st.sampled_from([5, 7, 11])),
        heads=data.draw(small),
        tokens=data.draw(small),
        content=data.draw(small),
        dtype=data.draw(st.sampled_from([torch.uint8, torch.bfloat16, torch.float32])),
        ratio=data.draw(st.integers(1, 3)) if order[0] == "L" else 1,
        offset=data.draw(st.integers(0, 3)),
    )
    numbers = st.permutations(range(caches.num_blocks))
    n = data.draw(st.integers(0, caches.num_blocks))
    sources, destinations = data.draw(numbers)[:n], data.draw(numbers)[:n]
    slots = data.draw(st.permutations(range(n + 2)))[:n]
    expected = caches.twin()
    expected.copy_directly(sources, destinations)

    _move(
        COPIERS[data.draw(st.sampled_from(sorted(COPIERS)))](caches, n + 2),
        *(list(one) for one in (sources, slots, destinations)),
    )

    assert torch.equal(caches.raw, expected.raw)


def test_a_slot_means_the_same_on_servers_of_other_sizes(make: Make) -> None:
    """Strides differ with the number of blocks; the bytes of a slot, and the signature, do not."""
    for order in LAYOUTS:
        here, there = views(order, num_blocks=7), views(order, num_blocks=13, seed=1)
        source, destination = make(here, 2), make(there, 2)
        assert source.shape.signature == destination.shape.signature

        source.wait(source.gather([6], [1]))
        destination.buffer[:] = source.buffer
        destination.wait(destination.scatter([1], [12]))

        for name, part in here.block(6).items():
            assert torch.equal(part.view(torch.uint8), there.block(12)[name].view(torch.uint8))


def test_both_copiers_agree_on_what_a_slot_holds() -> None:
    for case in CASES:
        slots = []
        for make in COPIERS.values():
            copier = make(CASES[case](), 3)
            copier.wait(copier.gather([4, 2], [2, 0]))
            slots.append(bytes(copier.buffer))
        assert slots[0] == slots[1] == slots[2], case


@pytest.mark.parametrize(
    ("block_ids", "slots", "says"),
    [
        ([1, 2], [0], "2 blocks and 1 slots"),
        ([7], [0], "block number is outside"),
        ([-1], [0], "block number is outside"),
        ([0], [3], "slot number is outside"),
        ([1, 1], [0, 1], "block number occurs twice"),
        ([1, 2], [0, 0], "slot number occurs twice"),
    ],
)
def test_bad_numbers_change_nothing(
    make: Make, block_ids: list[int], slots: list[int], says: str
) -> None:
    caches = views()
    expected = caches.raw.clone()
    copier = make(caches, 3)
    with pytest.raises(ValueError, match=says):
        copier.gather(block_ids, slots)
    with pytest.raises(ValueError, match=says):
        copier.scatter(slots, block_ids)

    assert torch.equal(caches.raw, expected)
    assert bytes(copier.buffer) == bytes(len(copier.buffer))


def test_an_arena_of_another_block_size_is_refused() -> None:
    shape = CacheShape.probe(views().kv, 7)
    for wrong in (bytearray(shape.block_bytes + 1), bytearray(0), bytes(shape.block_bytes)):
        with pytest.raises(ValueError, match="slots of 288"):
            HostCopier(shape, memoryview(wrong))


def test_the_copier_for_host_memory_is_chosen(make: Make) -> None:
    caches = views()
    buffer = memoryview(bytearray(2 * 288))

    assert isinstance(make_copier(caches.kv, 7, buffer), HostCopier)
    with pytest.raises(LayoutUnknown, match="a meta device"):
        make_copier({"a": torch.zeros(7, 2, device="meta")}, 7, buffer)


def test_a_copy_is_done_when_the_device_is_and_its_rest_here() -> None:
    caches = views()
    shape = CacheShape.probe(caches.kv, 7)
    streams = HostStreams(pinnable=False)
    copier = DeviceCopier(shape, memoryview(bytearray(2 * shape.block_bytes)), streams)
    ticket = copier.gather([3], [1])
    copier.fence(ticket)
    streams.events[-1].happened = False

    assert not copier.done(ticket)
    assert not any(copier.buffer)
    streams.events[-1].happened = True
    assert copier.done(ticket)
    assert any(copier.buffer)
    assert copier.done(ticket), "asking again does no harm"
    assert streams.fenced == [streams.events[-1]]
    copier.fence(ticket)
    copier.close()
    assert len(streams.fenced) == 1, "what is done needs no fence"


def test_waiting_for_the_last_of_several_copies_is_enough(make: Make) -> None:
    caches = views()
    whole, parts = make(caches, 6), make(caches, 6)
    whole.wait(whole.gather([1, 2, 3, 4], [0, 1, 2, 3]))
    parts.gather([1, 2], [0, 1])
    parts.gather([3], [2])
    parts.wait(parts.gather([4], [3]))

    assert bytes(parts.buffer) == bytes(whole.buffer)


def test_a_gathered_slot_can_be_scattered_without_waiting(make: Make) -> None:
    caches = views()
    expected = caches.twin()
    expected.copy_directly([1], [5])
    copier = make(caches, 2)
    copier.gather([1], [1])
    copier.wait(copier.scatter([1], [5]))

    assert torch.equal(caches.raw, expected.raw)


def test_nothing_to_copy_is_done_at_once(make: Make) -> None:
    copier = make(views(), 1)

    assert copier.done(copier.gather([], []))
    assert copier.done(copier.scatter([], []))
    copier.close()


@pytest.mark.parametrize("case", CASES)
def test_the_self_test_leaves_everything_as_it_was(case: str, make: Make) -> None:
    caches = CASES[case]()
    expected = caches.raw.clone()
    self_test(make(caches, 2))

    assert torch.equal(caches.raw, expected)


def test_the_self_test_finds_a_copier_that_is_wrong() -> None:
    class Deaf(HostCopier):
        def scatter(self, slots: Any, block_ids: Any) -> Ticket:
            return Ticket()

    class Everywhere(HostCopier):
        def scatter(self, slots: Any, block_ids: Any) -> Ticket:
            HostCopier.scatter(self, slots, [6])
            return HostCopier.scatter(self, slots, block_ids)

    for wrong in (Deaf, Everywhere):
        shape = CacheShape.probe(views().kv, 7)
        with pytest.raises(SelfTestFailed, match="came out different"):
            self_test(wrong(shape, memoryview(bytearray(shape.block_bytes))))


def test_runs() -> None:
    assert list(runs([3, 4, 5, 9, 1, 2])) == [(0, 3, 3), (3, 9, 1), (4, 1, 2)]
    assert list(paired_runs([3, 4, 5, 6], [7, 8, 1, 2])) == [(3, 7, 2), (5, 1, 2)]
    assert list(paired_runs([], [])) == []
