"""The staging arena: two processes, one memory; and who holds which slot."""

import ctypes
import errno
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migration.vllm.arena import SUFFIX, Arena, ArenaError, Slots, remove_stale


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / f"rank0{SUFFIX}"


def test_what_one_mapping_writes_the_other_reads(path: Path) -> None:
    with Arena.create(path, 4, 100) as mine, Arena.open(path) as theirs:
        mine.view(2)[:] = b"x" * 100
        theirs.view(3)[:] = b"y" * 100

        assert (theirs.slots, theirs.block_bytes) == (4, 100)
        assert bytes(200) + b"x" * 100 + b"y" * 100 == bytes(mine.buffer) == bytes(theirs.buffer)


def test_another_process_reads_and_writes_it(path: Path) -> None:
    with Arena.create(path, 2, 8) as arena:
        arena.view(0)[:] = b"to child"
        child = multiprocessing.get_context("spawn").Process(target=_answer, args=(path,))
        child.start()
        child.join(30)

        assert child.exitcode == 0
        assert bytes(arena.view(1)) == b"dlihc ot"
        assert not path.exists(), "the second process takes the name away"


def _answer(path: Path) -> None:
    with Arena.open(path) as arena:
        arena.view(1)[:] = bytes(arena.view(0))[::-1]


def test_the_address_is_that_of_slot_0(path: Path) -> None:
    with Arena.create(path, 2, 8) as arena:
        arena.view(1)[:] = b"an int64"

        assert ctypes.string_at(arena.address + 8, 8) == b"an int64"
        assert arena.address % 4096 == 0, "whole words can be copied"


def test_the_name_can_stay_for_more_readers(path: Path) -> None:
    with Arena.create(path, 1, 1):
        Arena.open(path, unlink=False).close()
        assert path.exists()
        Arena.open(path).close()
        assert not path.exists()


def test_only_this_user_can_open_it(path: Path) -> None:
    with Arena.create(path, 1, 1):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_name_in_use_is_not_taken_over(path: Path) -> None:
    path.write_bytes(b"somebody's")
    with pytest.raises(ArenaError, match="cannot create"):
        Arena.create(path, 1, 1)
    assert path.read_bytes() == b"somebody's"


@pytest.mark.parametrize(("slots", "block_bytes"), [(0, 1), (1, 0), (-1, 5)])
def test_an_empty_arena_is_refused(path: Path, slots: int, block_bytes: int) -> None:
    with pytest.raises(ArenaError, match="not possible"):
        Arena.create(path, slots, block_bytes)
    assert not path.exists()


def test_a_full_disk_is_an_error_that_says_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArenaError, match=r"no room for 4,104 bytes .* lower staging_bytes"):
        Arena.create(path, 1, 8)
    assert not path.exists(), "a failed creation leaves nothing"


def test_memory_is_taken_at_creation(path: Path) -> None:
    with Arena.create(path, 64, 1 << 16):
        assert path.stat().st_blocks * 512 >= 64 << 16, "no hole to fall into later"


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 5000])
def test_a_file_that_is_no_arena_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ArenaError, match="not staging memory"):
        Arena.open(path)
    assert path.exists()


def test_a_truncated_arena_is_refused(path: Path) -> None:
    with Arena.create(path, 4, 4096):
        os.truncate(path, 8192)
        with pytest.raises(ArenaError, match="do not fit"):
            Arena.open(path)
        os.truncate(path, 5 * 4096)


def test_links_are_not_followed(path: Path, tmp_path: Path) -> None:
    with Arena.create(path, 1, 1):
        link = tmp_path / "link"
        link.symlink_to(path)
        with pytest.raises(ArenaError, match="cannot open"):
            Arena.open(link)


@pytest.mark.parametrize("slot", [-1, 3])
def test_there_are_no_other_slots(path: Path, slot: int) -> None:
    with Arena.create(path, 3, 1) as arena, pytest.raises(IndexError):
        arena.view(slot)


def test_closing_twice_or_with_views_about_is_fine(path: Path) -> None:
    arena = Arena.create(path, 1, 4)
    view = arena.view(0)
    arena.unlink()
    arena.close()
    arena.close()
    view[:] = b"safe"

    assert bytes(view) == b"safe"


def test_only_arenas_of_the_dead_are_removed(tmp_path: Path) -> None:
    """A process that dies between creation and opening leaves its name behind."""
    alive, dead = tmp_path / f"alive{SUFFIX}", tmp_path / f"dead{SUFFIX}"
    other, empty = tmp_path / "other.txt", tmp_path / f"being-made{SUFFIX}"
    other.touch()
    empty.touch()
    with Arena.create(alive, 1, 1):
        Arena.create(dead, 1, 1).close()

        assert [dead] == remove_stale(tmp_path)
        assert not dead.exists()
        assert alive.exists()
        assert other.exists()
        assert empty.exists()


def test_slots_are_given_out_once_and_come_back() -> None:
    slots = Slots(range(10, 14))
    first = slots.acquire(3)

    assert first == [10, 11, 12]
    assert slots.free == 1
    assert slots.acquire(2) is None, "all or none"
    assert slots.free == 1
    slots.release(first)
    assert slots.acquire(4) == [10, 11, 12, 13]
    assert slots.acquire(0) == []


def test_a_run_is_preferred_to_scattered_slots() -> None:
    slots = Slots(range(8))
    taken = slots.acquire(8)
    assert taken is not None
    slots.release([1, 3, 5, 6])

    assert slots.acquire(2) == [5, 6]
    assert slots.acquire(2) == [1, 3], "scattered ones, when there is no run"


@pytest.mark.parametrize("wrong", [[0, 0], [0, 3], [0, 99], [-1]])
def test_nothing_is_released_twice(wrong: list[int]) -> None:
    slots = Slots(range(4))
    slots.acquire(3)
    with pytest.raises(ValueError, match="not taken"):
        slots.release(wrong)
    assert slots.free == 1, "a wrong release changes nothing"
    with pytest.raises(ValueError, match="cannot take"):
        slots.acquire(-1)
    with pytest.raises(ValueError, match="twice"):
        Slots([1, 1])


@given(st.integers(0, 12), st.lists(st.integers(-4, 6), max_size=40))
def test_free_and_taken_are_always_everything(n: int, steps: list[int]) -> None:
    """Positive steps take that many, negative ones release one of what was taken."""
    slots = Slots(range(n))
    held: list[list[int]] = []
    for step in steps:
        if step >= 0:
            got = slots.acquire(step)
            assert (got is None) == (step > n - sum(map(len, held)))
            if got is not None:
                held.append(got)
        elif held:
            slots.release(held.pop(step % len(held)))
        taken = [slot for one in held for slot in one]
        assert len(set(taken)) == len(taken)
        assert slots.free == n - len(taken)


def test_threads_never_share_a_slot() -> None:
    slots = Slots(range(16))
    owner: dict[int, int] = {}
    errors: list[str] = []

    def work(me: int) -> None:
        for _ in range(300):
            mine = slots.acquire(1 + me % 3)
            if mine is None:
                continue
            shared = [slot for slot in mine if owner.setdefault(slot, me) != me]
            errors.extend(f"{slot} is {owner[slot]}'s and {me}'s" for slot in shared)
            for slot in mine:
                owner.pop(slot, None)
            slots.release(mine)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert errors == []
    assert slots.free == len(slots) == 16
