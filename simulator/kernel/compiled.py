"""The columns' functions compiled by numba, where it is installed (`pip install …[fast]`).

The source is the same, on arrays instead of lists. Compiled code is cached on disk in a folder
named after all its inputs, so that stale code is never run.
"""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from policies import columns
from simulator.cache_folder import cache_folder
from simulator.engine.roster import EngineLimits
from simulator.kernel import clockwork, deciding, front
from simulator.kernel.engine import (
    cohort,
    counting,
    late_arrivals,
    pace,
    planning,
    prefixes,
    roster,
    runs,
    shared_blocks,
    speculating,
    stepping,
    tables,
)
from simulator.kernel.state import State, new_state

_MODULES: tuple[ModuleType, ...] = (
    columns,
    deciding,
    tables,
    runs,
    shared_blocks,
    prefixes,
    roster,
    cohort,
    pace,
    speculating,
    planning,
    late_arrivals,
    counting,
    stepping,
    front,
    clockwork,
)
"""In dependency order."""
_MAKE_ARRAYS = (columns, deciding)
"""All others are compiled without reference counting, which would cost more than the work."""
_INLINE = (roster, cohort, pace)
"""Modules whose functions are so small that calling them would cost more than the work."""


_DONE = "complete"


@dataclass(frozen=True, slots=True)
class Kernel:
    """The entry points that Python calls; the other functions are called from these."""

    run: Callable[[State, int, int], int]
    place: Callable[[State, int], int]
    send: Callable[[State, int, int, int], int]
    try_place: Callable[[State, int, int], int]
    submit: Callable[[State, int, int, int], None]
    single_out: Callable[[State, int, int], None]
    wake: Callable[[State, int], None]
    enter_batch: Callable[[State, int, int], None]
    leave_batch: Callable[[State, int, int], None]
    line_remove: Callable[[State, int, int], None]
    next_report: Callable[[State], None]
    unsend: Callable[[State, int], None]
    take_report: Callable[[State, int, int], int]
    rebalance: Callable[[State, int], int]
    free_blocks: Callable[[State, int, int], None]
    hand_out: Callable[[State, int, int, int, int], int]
    hand_back: Callable[[State, int, int, int], None]
    move_in: Callable[[State, int, int, int], None]


PLAIN = Kernel(
    run=clockwork.run,
    place=front.place,
    send=front.send,
    try_place=front.try_place,
    submit=stepping.submit,
    single_out=stepping.single_out,
    wake=stepping.wake,
    enter_batch=roster.enter_batch,
    leave_batch=roster.leave_batch,
    line_remove=roster.line_remove,
    next_report=clockwork.next_report,
    unsend=counting.unsend,
    take_report=clockwork.take_report,
    rebalance=clockwork.rebalance,
    free_blocks=roster.free_blocks,
    hand_out=shared_blocks.hand_out,
    hand_back=shared_blocks.hand_back,
    move_in=prefixes.move_in,
)


def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@cache
def compiled() -> Kernel:
    """Compile (about a minute), or load from the cache. Raises ImportError without numba."""
    import numba
    from numba.extending import register_jitable

    folder = _cache_folder()
    if folder is not None:
        vars(numba.config)["CACHE_DIR"] = str(folder)
    for module in _MODULES:
        for function in vars(module).values():
            if getattr(function, "__module__", None) == module.__name__ and callable(function):
                inline = {"forceinline": True} if module in _INLINE else {}
                register_jitable(_nrt=module in _MAKE_ARRAYS, **inline)(function)
    jit: Any = partial(numba.njit, cache=folder is not None, _nrt=False)
    kernel = Kernel(**{name: jit(getattr(PLAIN, name)) for name in Kernel.__slots__})
    limits = EngineLimits(capacity_tokens=1, block_tokens=1)
    blank = new_state(((),) * 4, 1, limits, [0], arrays=True)
    state = numba.typeof(blank)  # type: ignore[no-untyped-call]
    for name in Kernel.__slots__:
        numbers = len(inspect.signature(getattr(PLAIN, name)).parameters) - 1
        getattr(kernel, name).compile((state, *[numba.int64] * numbers))
    if folder is not None:
        (folder / _DONE).touch()
    return kernel


def is_compiled() -> bool:
    """Whether the kernel is already in this machine's cache, so that compiling takes no time."""
    if compiled.cache_info().currsize > 0:
        return True
    folder = _cache_folder()
    return folder is not None and (folder / _DONE).exists()


def _cache_folder() -> Path | None:
    """Return where compiled code is kept; None if nothing can be."""
    caches = cache_folder()
    if caches is None:
        return None
    digest = hashlib.sha256(f"{version('numba')} {sys.version}".encode())
    state = importlib.import_module(State.__module__)
    for path in (__file__, state.__file__, *(module.__file__ for module in _MODULES)):
        assert path is not None
        when_ns = Path(path).stat().st_mtime_ns  # numba compiles anew for another path or time
        digest.update(f"{path} {when_ns}".encode() + Path(path).read_bytes())
    return caches / f"kernel-{digest.hexdigest()[:16]}"
