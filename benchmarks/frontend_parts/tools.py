"""The load tools, `stub.c` and `load.c`: built once per source, then run on the cores given."""

import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from simulator.cache_folder import cache_folder

HERE = Path(__file__).parent
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O2",)
_BUILD_TIMEOUT_S = 120.0
_GRACE_S = 5.0


class ToolError(Exception):
    """A load tool cannot be built or has failed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of the load tool asked for and got. Times are milliseconds by share: "p50"."""

    requests: int
    failed: int
    tokens: int
    wall_s: float
    failure: str
    first_ms: dict[str, float]
    whole_ms: dict[str, float]
    forward_ms: dict[str, float]
    steady_ms: dict[str, float]


@cache
def built(name: str) -> Path:
    """Return the program made from `name`.c. Raises ToolError."""
    source = HERE / f"{name}.c"
    folder = cache_folder()
    if folder is None:
        raise ToolError("no folder for caches can be written; set XDG_CACHE_HOME")
    text = b"".join(each.read_bytes() for each in (source, HERE / "words.h"))
    digest = hashlib.sha256(text + platform.machine().encode()).hexdigest()[:16]
    program = folder / f"benchmark-{name}-{digest}"
    if not program.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / name
            command = [*_compiler(), *_FLAGS, "-o", str(made), str(source)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
            )
            if done.returncode:
                raise ToolError(f"{' '.join(command)} failed:\n{done.stderr.strip()[-1500:]}")
            made.replace(program)
    return program


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    found = next((each for each in map(shutil.which, _COMPILERS) if each), None)
    if not named and found is None:
        raise ToolError("the load tools are C: install a C compiler (cc, gcc or clang), or set CC")
    return named or [str(found)]


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Start children on these cores within the context."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def started(
    command: list[str], cores: Collection[int], **more: Any
) -> Iterator["subprocess.Popen[str]"]:
    """Run a process on these cores within the context; it and its children are then ended."""
    with on_cores(cores):
        # Standard input is ours to hold: `--exit-with-parent` ends where it closes.
        process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, start_new_session=True, **more
        )
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[str]") -> None:
    """End a process that leads a session, by force where it does not end in time."""
    if process.poll() is None:
        process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


@contextmanager
def stub(cores: Collection[int], ports: int) -> Iterator[list[int]]:
    """Run a stub server within the context; yield its ports."""
    with started([str(built("stub")), str(ports)], cores, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with process.stdout:
            told = process.stdout.readline().split()
        if len(told) != ports:
            raise ToolError("the stub server did not start")
        yield [int(port) for port in told]


def load(
    cores: Collection[int],
    port: int,
    when_open: Callable[[], None] | None = None,
    /,
    **options: int,
) -> Load:
    """Run the load tool to its end; `when_open` is called when all connections had a first token.

    Raises ToolError if it breaks off; requests that fail are counted in what it returns.
    """
    words = [f"{name}={int(value)}" for name, value in {"port": port, **options}.items()]
    with started([str(built("load")), *words], cores, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with process.stdout:
            last = ""
            for line in process.stdout:
                last = line
                if line == "open\n" and when_open is not None:
                    when_open()
        process.wait()
    if process.returncode or not last.startswith("{"):
        raise ToolError(f"load {' '.join(words)}: exit status {process.returncode}")
    return Load(**json.loads(last))


def cpu_s(pid: int) -> dict[int, float]:
    """Return the CPU time of a process and each of its descendants, in seconds."""
    used = {}
    for each in descendants(pid):
        try:
            used[each] = time.clock_gettime((~each << 3) | 2)  # CLOCK_PROCESS_CPUTIME_ID of a pid
        except OSError:
            continue
    return used


def descendants(pid: int) -> list[int]:
    """Return a process and the living ones that descend from it."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found.extend(int(word) for word in children.read_text().split())
            except OSError:
                continue
    return found


def resident_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants that is theirs alone, in bytes."""
    total = 0
    for each in descendants(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(
            int(line.split()[1]) * 1024
            for line in lines
            if line.startswith(("Private_Clean", "Private_Dirty"))
        )
    return total


def say(text: str) -> None:
    """Show progress on stderr."""
    print(text, file=sys.stderr, flush=True)
