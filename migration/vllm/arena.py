"""The staging arena: shared memory that KV blocks pass through between a worker and the engine.

A worker (one per tensor-parallel rank) creates it and copies blocks in and out of its slots; the
engine's process opens it and sends and receives them. The file is a header page followed by the
slots, each `block_bytes` long. It is filled at creation, so that a full disk is an error there and
never a SIGBUS later; it is unlinked as soon as the second process has opened it, so that the memory
is freed when the last process exits, for whatever reason.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from migration.errors import MigrationError

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - files are created exclusively, for this user only
SUFFIX = ".llumnix-arena"

_HEADER = struct.Struct("<8sQQ")
_MAGIC = b"llumarn1"
_DATA_OFFSET = 4096
_POPULATE: int = getattr(mmap, "MAP_POPULATE", 0)


class ArenaError(MigrationError):
    """The staging memory cannot be had, or is not what it should be; the message says why."""


class Arena:
    """A mapped arena. Build it with `create` in the worker and `open` in the other process."""

    def __init__(self, path: Path, fd: int, slots: int, block_bytes: int) -> None:
        self.path = path
        self.slots = slots
        self.block_bytes = block_bytes
        self._fd = fd
        size = _DATA_OFFSET + slots * block_bytes
        try:
            self._map = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | _POPULATE)
        except OSError as error:
            raise ArenaError(f"cannot map {size:,} bytes of {path}: {error}") from error
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + _DATA_OFFSET
        self._data = memoryview(self._map)[_DATA_OFFSET:]

    @classmethod
    def create(cls, path: Path, slots: int, block_bytes: int) -> Self:
        """Create the file and take all of its memory; ArenaError when there is not enough."""
        if slots < 1 or block_bytes < 1:
            raise ArenaError(f"an arena of {slots} slots of {block_bytes} bytes is not possible")
        size = _DATA_OFFSET + slots * block_bytes
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise ArenaError(f"cannot create the staging memory {path}: {error}") from error
        try:
            _allocate(fd, path, size)
            fcntl.flock(fd, fcntl.LOCK_SH)
            os.pwrite(fd, _HEADER.pack(_MAGIC, slots, block_bytes), 0)
            return cls(path, fd, slots, block_bytes)
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def open(cls, path: Path, *, unlink: bool = True) -> Self:
        """Map an arena that another process created, and unlink it."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise ArenaError(f"cannot open the staging memory {path}: {error}") from error
        try:
            slots, block_bytes = _checked_header(fd, path)
            fcntl.flock(fd, fcntl.LOCK_SH)
            arena = cls(path, fd, slots, block_bytes)
        except BaseException:
            os.close(fd)
            raise
        if unlink:
            arena.unlink()
        return arena

    @property
    def address(self) -> int:
        """Return where slot 0 begins in this process's memory."""
        return self._address

    @property
    def buffer(self) -> memoryview:
        """View all slots, one after the other."""
        return self._data

    def view(self, slot: int) -> memoryview:
        """View one slot's bytes."""
        if not 0 <= slot < self.slots:
            raise IndexError(f"slot {slot} of {self.slots}")
        start = slot * self.block_bytes
        return self._data[start : start + self.block_bytes]

    def unlink(self) -> None:
        """Unlink the file; processes that have it mapped keep the memory."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the memory. Views held elsewhere keep it mapped until they are released."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        self._data.release()
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.unlink()
        self.close()


def _allocate(fd: int, path: Path, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
            raise ArenaError(f"cannot size the staging memory {path}: {error}") from error
        free = os.statvfs(path.parent)
        raise ArenaError(
            f"no room for {size:,} bytes of staging memory in {path.parent} "
            f"({free.f_bavail * free.f_frsize:,} are free): lower staging_bytes, set staging_dir "
            "to another folder, or give the container more shared memory (--shm-size)"
        ) from error


def _checked_header(fd: int, path: Path) -> tuple[int, int]:
    """Read slots and block bytes; refuse what `create` did not write for this very user."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise ArenaError(f"{path} is not staging memory of this user")
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ArenaError(f"{path} is not staging memory, or of another version")
    _, slots, block_bytes = _HEADER.unpack(header)
    if slots < 1 or block_bytes < 1 or found.st_size != _DATA_OFFSET + slots * block_bytes:
        raise ArenaError(
            f"{path} has {found.st_size:,} bytes, which {slots} slots of {block_bytes} do not fit"
        )
    return slots, block_bytes


def remove_stale(folder: Path) -> list[Path]:
    """Remove arenas whose processes died before the file was unlinked, whoever's they were.

    A live process holds a lock on its arena's file, which ends with the process.
    """
    removed = []
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A file without a header is being created right now: its lock comes next.
            if os.pread(fd, len(_MAGIC), 0) == _MAGIC:
                path.unlink(missing_ok=True)
                removed.append(path)
        except OSError:
            continue
        finally:
            os.close(fd)
    return removed


class Slots:
    """A bounded set of slot numbers, handed out and taken back from any thread."""

    def __init__(self, numbers: Sequence[int]) -> None:
        """Manage these numbers; neighbours in them are handed out together where possible."""
        self._numbers = tuple(numbers)
        self._place = {number: place for place, number in enumerate(self._numbers)}
        if len(self._place) != len(self._numbers):
            raise ValueError("a slot number occurs twice")
        self._taken = bytearray(len(self._numbers))
        self._free = len(self._numbers)
        self._lock = threading.Lock()

    def acquire(self, n: int) -> list[int] | None:
        """Take n numbers, all or none: in one run if there is one, since runs copy fastest."""
        if n < 0:
            raise ValueError(f"cannot take {n} slots")
        with self._lock:
            if n > self._free:
                return None
            start = self._taken.find(bytes(n))
            places = range(start, start + n) if start >= 0 else self._lowest_free(n)
            for place in places:
                self._taken[place] = 1
            self._free -= n
            return [self._numbers[place] for place in places]

    def _lowest_free(self, n: int) -> list[int]:
        places: list[int] = []
        place = -1
        for _ in range(n):
            place = self._taken.index(0, place + 1)
            places.append(place)
        return places

    def release(self, numbers: Iterable[int]) -> None:
        """Give numbers back. ValueError, and nothing given back, if one of them is not taken."""
        with self._lock:
            places: set[int] = set()
            for number in numbers:
                place = self._place.get(number)
                if place is None or not self._taken[place] or place in places:
                    raise ValueError(f"slot {number} is not taken")
                places.add(place)
            for place in places:
                self._taken[place] = 0
            self._free += len(places)

    @property
    def free(self) -> int:
        """Count the numbers that can be taken now."""
        return self._free

    def __len__(self) -> int:
        return len(self._numbers)
