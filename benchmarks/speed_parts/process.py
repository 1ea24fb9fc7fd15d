"""Child processes on one core, their CPU time and memory, and environments of other tools."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CORE = max(os.sched_getaffinity(0))
"""The core of everything that is timed, alone among this benchmark's processes."""
_STAMP = ".complete"
_SHOWN_CHARACTERS = 1500


class RunFailedError(Exception):
    """A child process failed; the message holds the end of its output."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A process that ended well: CPU time (user and system), wall time, memory, and output."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    output: str


def run_pinned(
    command: Sequence[str | Path],
    *,
    timeout_s: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cores: Collection[int] = (CORE,),
) -> Ran:
    """Run a command on one core, or on those given; its own children count as well.

    Raises RunFailedError when it fails or takes too long.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # inherited
        began_s = time.monotonic()
        try:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=output,
                stderr=errors,
                cwd=folder,
                env={**os.environ, **(environment or {})},
            )
        finally:
            os.sched_setaffinity(0, allowed)
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        # Not process.wait(): only wait4 reports the usage of this one child.
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        wall_s = time.monotonic() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        said, complained = _text(output), _text(errors)
    if process.returncode:
        why = "took too long" if wall_s >= timeout_s else f"exit status {process.returncode}"
        tail = (complained or said).strip()[-_SHOWN_CHARACTERS:]
        raise RunFailedError(f"`{' '.join(map(str, command))}`: {why}\n{tail}")
    return Ran(used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss * 1024, said)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def environment_with(name: str, requirements: Sequence[str], *, timeout_s: float = 1200.0) -> Path:
    """Make a virtual environment in the user's cache, once; return its interpreter.

    Raises RunFailedError when pip cannot install the requirements.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "llumnix" / name
    python, stamp = folder / "bin" / "python", folder / _STAMP
    recipe = "\n".join([sys.version, *requirements])
    if not (stamp.is_file() and stamp.read_text() == recipe):
        print(f"installing {' '.join(requirements)} in {folder}, once", file=sys.stderr, flush=True)
        run_pinned([sys.executable, "-m", "venv", "--clear", folder], timeout_s=timeout_s)
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            *requirements,
        ]
        run_pinned(pip, timeout_s=timeout_s)
        stamp.write_text(recipe)
    return python
