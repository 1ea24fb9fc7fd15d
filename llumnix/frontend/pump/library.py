"""Build and load the compiled pump: once per machine and source, into this user's cache.

It is plain C without Python's headers, called by `ctypes`, so that any C compiler can build it in
half a second. Where there is none, or no folder for caches, streams are served in Python.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from simulator.cache_folder import cache_folder

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O2", "-shared", "-fPIC")
_TIMEOUT_S = 60.0
_INT, _SIZE, _DOUBLE, _PUMP = ctypes.c_int, ctypes.c_size_t, ctypes.c_double, ctypes.c_void_p
_BYTES, _NUMBERS = ctypes.c_char_p, ctypes.POINTER(ctypes.c_int32)
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "pump_new": (_PUMP,),
    "pump_free": (None, _PUMP),
    "pump_fd": (_INT, _PUMP),
    "pump_add": (_INT, _PUMP, _INT, _INT, _INT, _INT),
    "pump_leave": (None, _PUMP, _INT),
    "pump_remove": (None, _PUMP, _INT),
    "pump_turn": (_INT, _PUMP),
    "pump_n_stopped": (_INT, _PUMP),
    "pump_n_full": (_INT, _PUMP),
    "pump_stopped": (_NUMBERS, _PUMP),
    "pump_full": (_NUMBERS, _PUMP),
    "pump_last_at": (_DOUBLE, _PUMP, _INT),
    "pump_put": (_INT, _PUMP, _INT, _INT, _BYTES, _SIZE),
    "pump_size": (_SIZE, _PUMP, _INT, _INT),
    "pump_data": (_PUMP, _PUMP, _INT, _INT),
    "pump_clear": (None, _PUMP, _INT, _INT),
}


class NotBuilt(Exception):  # noqa: N818 - a reason, told to whoever wanted it
    """The compiled pump cannot be had here; the message says why."""


class NoCompiler(NotBuilt):
    """This machine has no C compiler."""


@cache
def load_library() -> ctypes.PyDLL:
    """Return the compiled pump, built if it has not been yet. Raises NotBuilt."""
    if sys.platform != "linux":
        raise NotBuilt("it needs Linux")
    source = files(__package__).joinpath("pump.c").read_bytes()
    folder = cache_folder()
    if folder is None:
        raise NotBuilt("no folder for caches can be written")
    digest = hashlib.sha256(source + platform.machine().encode()).hexdigest()[:16]
    built = folder / f"pump-{digest}.so"
    try:
        if not built.exists():
            _build(source, built)
        library = ctypes.PyDLL(str(built))
        for name, (returns, *takes) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = returns, takes
    except (OSError, AttributeError) as error:
        raise NotBuilt(str(error)) from error
    return library


def _build(source: bytes, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made, code = Path(folder) / target.name, Path(folder) / "pump.c"
        code.write_bytes(source)
        command = [*_compiler(), *_FLAGS, "-o", str(made), str(code)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise NotBuilt(f"{command[0]} has not finished in {_TIMEOUT_S:g} s") from error
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise NotBuilt(f"{command[0]} failed: {' '.join(last)}")
        made.replace(target)


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named
    found = next((each for each in map(shutil.which, _COMPILERS) if each), None)
    if found is None:
        raise NoCompiler("there is no C compiler (cc, gcc or clang)")
    return [found]
